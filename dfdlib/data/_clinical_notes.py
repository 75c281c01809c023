"""Notes as bags of hashed words, or as embeddings that the user has computed."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import HashingVectorizer

from dfdlib.data._clinical import Extract
from dfdlib.data._ragged import Ragged

N_WORDS = 2**18
_CHUNK = 10_000


def hashed_notes(extract: Extract, query: str, n: int) -> Ragged:
    """Count the hashed words of each note: a code per word, as often as the word is there.

    Only the hash is taken here, which needs no data to be fitted on. The weights that make TF-IDF
    of it belong to the training part: `dfdlib.models.codes.CodeBag(pool="tfidf")` fits them.

    Args:
        extract: with the tables that the query reads.
        query: gives `position` and `note`, in the order of positions, one note per row.
        n: rows of the cohort.
    """
    hashing = HashingVectorizer(n_features=N_WORDS, alternate_sign=False, norm=None)
    rows, words = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for chunk in extract.chunks(query, _CHUNK):
        # what was taken out to protect patients is no word
        count = hashing.transform(chunk["note"].str.replace("___", " ", regex=False))
        owner = np.repeat(chunk["position"].to_numpy(), np.diff(count.indptr))
        times = count.data.astype(np.int64)
        rows.append(np.repeat(owner, times))
        words.append(np.repeat(count.indices, times).astype(np.int64))
    offsets = np.searchsorted(np.concatenate(rows), np.arange(n + 1))
    return Ragged(torch.from_numpy(np.concatenate(words)), torch.from_numpy(offsets))


def embedded_notes(extract: Extract, file: Any, key: str, n: int) -> pd.DataFrame:
    """Read embeddings that were computed before: a parquet or CSV file with a column per unit.

    Args:
        extract: with the table `unit`.
        file: the file; all its columns but the key are numbers.
        key: the column that says whose note it is.
        n: rows of the cohort.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it lacks the key, a column holds no numbers, somebody is there twice, or nobody
            of the cohort is.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is no file. Pass a parquet or CSV file of embeddings")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError, EOFError):  # what pandas says repeats the path, or a cell
        raise ValueError(
            f"{path.name} is no parquet or CSV file of embeddings, or is damaged. Write it again"
        ) from None
    if key not in table:
        raise ValueError(f"{path.name} has no column {key!r}, which says whose note it is. Add it")
    wrong = [c for c in table if not pd.api.types.is_numeric_dtype(table[c])]
    if wrong:
        raise ValueError(
            f"{path.name}: column {wrong[0]!r} holds no numbers. Keep {key!r} and one column of "
            "numbers for each unit of the embedding"
        )
    if table[key].duplicated().any():
        row = int(table[key].duplicated().argmax()) + 1
        raise ValueError(
            f"{path.name}, row {row}: {key} is that of a row before. Keep one embedding per {key}"
        )
    unit = extract.fetch("SELECT id FROM unit ORDER BY position")["id"]
    found = table.set_index(key).reindex(unit)
    if found.isna().all(axis=None):
        raise ValueError(f"{path.name} has nobody of the cohort. Check its column {key!r}")
    assert len(found) == n  # ids of the cohort are unique
    return found.reset_index(drop=True)
