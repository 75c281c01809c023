"""What small cohorts of made-up patients are put together from, for tests of models."""

import torch


def three_modalities(n, generator):
    """Two numbers each of labs, ecg and notes, of which some are missing, but never all."""
    x = {name: torch.randn(n, 2, generator=generator) for name in ("labs", "ecg", "notes")}
    observed = torch.rand(n, 3, generator=generator) < 0.7
    observed[:, 0] |= ~observed.any(1)
    return x, observed


def random_labels(task, n, generator):
    """Labels that say nothing, of a task; the first five are not known."""
    y = {
        "binary": torch.randint(0, 2, (n,), generator=generator).float(),
        "multiclass": torch.randint(0, 3, (n,), generator=generator).float(),
        "multilabel": torch.randint(0, 2, (n, 4), generator=generator).float(),
    }[task]
    y[:5] = torch.nan
    return y


def labels_of(values, task, generator, *, noise=1.0, unknown=5):
    """Labels of a task that hang on two numbers and on noise; the first few are not known."""
    score = values @ torch.randn(2, 3, generator=generator)
    score = score + noise * torch.randn(len(values), 3, generator=generator)
    y = {"binary": score[:, 0] > 0, "multiclass": score.argmax(1), "multilabel": score > 0}[task]
    y = y.float()
    y[:unknown] = torch.nan
    return y
