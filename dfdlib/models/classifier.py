"""The plain method: encoders, backbone and head, trained by empirical risk minimisation."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dfdlib.data import Batch, Cohort, Schema
from dfdlib.models.backbone import Backbone, adapted, is_default
from dfdlib.models.encoders import Fitted, check_module, check_schema, make_encoders
from dfdlib.models.heads import Head, Linear
from dfdlib.models.method import Method, cross_entropy, probabilities


class Step(NamedTuple):
    """What a classifier computed of a batch in training: what the terms of its loss read.

    Attributes:
        h: what the head reads, (n, w).
        logits: what the head made of it, (n, k).
        tokens: a token per patient and modality, (n, m, d).
        observed: which modalities the network was shown, (n, m); the head may have hidden some.
        y: labels, NaN where missing: (n,), or (n, labels) if multi-label.
        batch: the batch itself, for whose rows they are and their groups.
        shared: what the backbone computed of the tokens and its own terms read again, by name.

    Example:
        >>> from dfdlib.models import GRAPE
        >>> class Smooth(Classifier):
        ...     def terms(self, step):
        ...         return super().terms(step) | {"size": step.logits.square().mean()}
        >>> cohort = Cohort(x={"labs": torch.randn(6, 4)}, y=[0, 1, 0, 1, 0, 1])
        >>> model = Smooth(backbone=GRAPE(d=8), schema=cohort.schema)
        >>> model.prepare(cohort)
        >>> sorted(model.loss(next(cohort.batches(6))))
        ['cross_entropy', 'size', 'total']
    """

    h: Float[Tensor, "n w"]
    logits: Float[Tensor, "n k"]
    tokens: Float[Tensor, "n m d"]
    observed: Bool[Tensor, "n m"]
    y: Tensor
    batch: Batch
    shared: Mapping[str, Any] = MappingProxyType({})


class Classifier(Method):
    r"""Empirical risk minimisation (ERM): tokens, backbone, head, cross-entropy.

    .. math::
        \mathcal{L} = -\frac{1}{n} \sum_i \log p(y_i \mid x_i)

    over the patients whose label is known. For a binary or multi-label task p is the sigmoid of one
    logit per label, for several classes the softmax.

    Args:
        backbone: a module with `forward(tokens, observed, weight=None)` and an attribute `d`; what
            else it may have says `Backbone`.
        schema: `cohort.schema` of the data that the model is for.
        encoders: modules that replace the default encoder of the modalities named.
        head: a module with `forward(h, observed)`, `Linear` by default; what else it may have says
            `Head`.
        flags: whether encoders are told which features were observed.
        dropout: dropout rate in the default encoders.

    Raises:
        TypeError: if the schema is none (a cohort has one: `cohort.schema`), the backbone or the
            head is no module, or the encoders are no mapping.
        ValueError: if the schema has no task, or the backbone no `d`.

    Example:
        >>> from dfdlib.models import GRAPE
        >>> cohort = Cohort(x={"labs": torch.randn(6, 4)}, y=[0, 1, 0, 1, 0, 1])
        >>> model = Classifier(backbone=GRAPE(d=8), schema=cohort.schema)
        >>> model.prepare(cohort)
        >>> sorted(model.loss(next(cohort.batches(6))))
        ['cross_entropy', 'total']
    """

    d: int
    seen: Tensor

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "represent" in vars(cls):
            raise TypeError(
                f"{cls.__name__} overrides represent, which is not what it would be trained by. "
                "Override represent_for_training, which gives (h, {}); represent follows it."
            )

    def __init__(
        self,
        *,
        backbone: nn.Module,
        schema: Schema,
        encoders: Mapping[str, nn.Module] | None = None,
        head: nn.Module | None = None,
        flags: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        check_schema(schema, who)
        check_module(backbone, who, "backbone", "GRAPE")
        if head is not None:
            check_module(head, who, "head", "Linear")
        if schema.task is None:
            raise ValueError(
                "the schema has no task, since the cohort has no labels. Pass y= when you make the "
                "Cohort that the schema is taken from."
            )
        if not isinstance(getattr(backbone, "d", None), int):
            raise ValueError(
                f"{type(backbone).__name__} has no integer attribute d, the width of its "
                "embedding. Set self.d in its __init__."
            )
        self.schema, self.flags, self.dropout = schema, flags, dropout
        self.task: str = schema.task
        self.backbone, self.d = backbone, int(backbone.d)  # type: ignore[arg-type]
        self.encoders = make_encoders(
            schema, d=self.d, flags=flags, dropout=dropout, encoders=encoders
        )
        self.head = Linear() if head is None else head
        adapted(self.backbone, Backbone).build(len(schema.names))
        adapted(self.head, Head).build(d=self.width, n_outputs=int(schema.n_outputs or 1))
        self.register_buffer("prepared", torch.tensor(False))
        self.register_buffer("seen", torch.ones(len(schema.names), dtype=torch.bool))

    @property
    def width(self) -> int:
        """Width of what the head reads."""
        return self.d

    def prepare(self, train: Cohort) -> None:
        """Fit scalers, vocabularies and what the head wants to know on the training part."""
        for name, encoder in self.encoders.items():
            if isinstance(encoder, Fitted):
                encoder.fit(train.x[name], train.x_observed.get(name))
        if train.names != self.schema.names:  # a head reads columns, not names
            train = train.select(modalities=list(self.schema.names))
        self.seen.copy_(train.observed.any(0))
        adapted(self.head, Head).prepare(train)
        self.prepared.fill_(True)

    def fix_states(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Let backbone, then head fix what depends on other patients, over the training part."""

        def stream() -> Iterable[tuple[Tensor, Tensor, None]]:
            for batch in batches():
                yield *self.tokens(batch), None

        def embeddings() -> Iterable[tuple[Tensor, Tensor]]:
            for tokens, observed, _ in stream():
                yield self.represent(tokens, observed), observed

        training = self.training
        self.eval()
        with torch.no_grad():
            adapted(self.backbone, Backbone).fix_states(stream)
            adapted(self.head, Head).fix_states(embeddings)
        self.train(training)

    def tokens(self, batch: Batch) -> tuple[Float[Tensor, "n m d"], Bool[Tensor, "n m"]]:
        """Encode a batch: tokens, and which of them were observed, in the order of the schema.

        A modality that the batch does not have, or that training never observed, counts as missing.
        """
        column = {name: j for j, name in enumerate(batch.x)}
        unknown = [name for name in column if name not in self.encoders]
        if unknown:
            raise ValueError(
                f"the model does not know the modality {unknown[0]!r}; it was made for "
                f"{', '.join(self.schema.names)}. Leave it out: cohort.select(modalities=[...])."
            )
        n, device = batch.observed.shape[0], batch.observed.device
        tokens, observed = [], []
        for name, encoder in self.encoders.items():
            if name in column:
                self._check_features(name, batch.x[name])
                token = encoder(batch.x[name], batch.x_observed.get(name))
                if token.shape != (n, self.d):
                    raise ValueError(
                        f"the encoder of {name!r} gives {tuple(token.shape)}, but a token per "
                        f"patient is {(n, self.d)}. Make it with d={self.d}."
                    )
                there = batch.observed[:, column[name]]
            else:
                token = torch.zeros(n, self.d, device=device)
                there = torch.zeros(n, dtype=torch.bool, device=device)
            tokens.append(token)
            observed.append(there)
        return torch.stack(tokens, dim=1), torch.stack(observed, dim=1) & self.seen

    def _check_features(self, name: str, values: Any) -> None:
        kind = self.schema.kinds[name]
        if kind not in ("vector", "categorical"):
            return
        features = self.schema.features[name]
        if values.shape[1] != len(features):
            raise ValueError(
                f"{name!r} has {values.shape[1]} features here, but the model was made for "
                f"{len(features)}: {', '.join(features)}. Pass these columns, in this order."
            )
        if values.is_floating_point() != (kind == "vector"):
            raise ValueError(
                f"{name!r} holds {values.dtype} here, but the model was made for kind {kind!r}. "
                f"Pass kinds={{{name!r}: {kind!r}}} to Cohort."
            )

    def represent(
        self, tokens: Float[Tensor, "n m d"], observed: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n w"]:
        """Embed each patient from the tokens; what the head reads."""
        return self.represent_for_training(tokens, observed)[0]

    def represent_for_training(
        self, tokens: Float[Tensor, "n m d"], observed: Bool[Tensor, "n m"]
    ) -> tuple[Float[Tensor, "n w"], Mapping[str, Any]]:
        """Embed each patient; and what `backbone_terms` finds in `Step.shared`.

        A method that embeds patients otherwise overrides this, and `represent` follows.
        """
        return adapted(self.backbone, Backbone).embed_for_training(tokens, observed)

    def logits(
        self, h: Float[Tensor, "n w"], observed: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n k"]:
        """Map what `represent` gave to logits: for the loss in training, for the score after it."""
        return self.head(h, observed)

    def score(
        self, tokens: Float[Tensor, "n m d"], observed: Bool[Tensor, "n m"]
    ) -> Float[Tensor, "n k"]:
        """Logits of each patient from the tokens."""
        return self.logits(self.represent(tokens, observed), observed)

    def embed(self, batch: Batch) -> Float[Tensor, "n w"]:
        """Embed each patient of a batch."""
        return self.represent(*self.tokens(batch))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropy over the labels that are known; `total` is what is minimised.

        In training the head may hide modalities and weight patients, head and backbone may add
        terms, and a method that is made from this one overrides `terms`.
        """
        tokens, observed = self.tokens(batch)
        y = batch.y
        if y is None:
            raise ValueError("the batch has no labels, so there is no loss. Pass y= to Cohort.")
        if self.training:
            observed = adapted(self.head, Head).mask(observed)
        if not self.training:
            loss = cross_entropy(self.score(tokens, observed), y, task=self.task)
            return {"total": loss, "cross_entropy": loss}
        h, shared = self.represent_for_training(tokens, observed)
        step = Step(h, self.logits(h, observed), tokens, observed, y, batch, shared)
        terms = self.terms(step)
        return {"total": self.total(terms), **terms}

    def terms(self, step: Step) -> dict[str, Tensor]:
        """What training minimises the sum of, by name."""
        return self.head_terms(step) | self.backbone_terms(step)

    def head_terms(self, step: Step, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Cross-entropy with the weights that the head gives (and another), and its penalty."""
        head = adapted(self.head, Head)
        by_pattern = head.sample_weight(step.observed)
        by_row = head.row_weight(step.batch.index)
        loss = cross_entropy(step.logits, step.y, by_pattern, by_row, weight, task=self.task)
        penalty = head.penalty(step.h, step.observed, step.y)
        return {"cross_entropy": loss} | ({} if penalty is None else {"penalty": penalty})

    def backbone_terms(self, step: Step) -> dict[str, Tensor]:
        """What the backbone adds to the loss, such as MUSE's contrast; most add nothing."""
        h, _, tokens, observed, y, _, shared = step
        backbone = adapted(self.backbone, Backbone)
        return backbone.auxiliary(h, tokens, observed, y, None, **shared)

    def total(self, terms: dict[str, Tensor]) -> Float[Tensor, ""]:
        """Put the terms together: their sum."""
        return torch.stack(list(terms.values())).sum()

    @torch.no_grad()
    def predict_proba(self, batch: Batch) -> Float[Tensor, "n k"]:
        """Probability of each class (of each label, if multi-label) for each patient of a batch."""
        self._check_prepared()
        tokens, observed = self.tokens(batch)
        return probabilities(self.score(tokens, observed), task=self.task)

    @torch.no_grad()
    def explain(self, batch: Batch) -> pd.DataFrame:
        """Let the head take its predictions apart; see `Deconfounder.explain`.

        Returns:
            The head's table; `row` is the patient's row in the cohort that the batch is of.

        Raises:
            ValueError: if the head explains nothing.
        """
        head = adapted(self.head, Head)
        if is_default(head.explain, Head.explain):
            raise ValueError(
                f"{type(self.head).__name__} has nothing to explain. Make the model with "
                "head=Deconfounder(route='stratified')."
            )
        self._check_prepared()
        training = self.training
        self.eval()
        tokens, observed = self.tokens(batch)
        h = self.represent(tokens, observed)
        table = head.explain(h, observed, names=self.schema.names)
        self.train(training)
        table["row"] = batch.index.cpu().numpy()[table["row"]]
        return table

    def _check_prepared(self) -> None:
        if not self.prepared:
            raise RuntimeError(
                "this model is not fitted: its scalers know no data. Call fit(model, train), or "
                "model.prepare(train) for the probabilities of the untrained network."
            )
