"""Which results of a claim are primary: the one place that says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

SEEDS = 5


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a claim says, and which results say so: patterns of what a result's file names.

    Args:
        says: in words.
        methods: of the method; one has to fit.
        asks: of the estimand; one has to fit.
        without: of the data set; none may fit.
    """

    says: str
    methods: tuple[str, ...] = ("*",)
    asks: tuple[str, ...] = ("*",)
    without: tuple[str, ...] = ()

    def holds(self, result: Mapping[str, Any] | pd.Series) -> bool:
        """Whether a result is one of these.

        >>> part = Part(says="", methods=("DFD, *",), without=("*, mcar",))
        >>> part.holds({"method": "DFD, MUSE", "estimand": "P(Y | X)", "dataset": "heart"})
        True
        """
        return (
            _fits(result["method"], self.methods)
            and _fits(result["estimand"], self.asks)
            and not _fits(result["dataset"], self.without)
        )


def _fits(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


# The one place that names the primary results of a claim: the method as described, on every data
# set, backbone and size. Not counted are variants, rivals, and data sets that are controls, because
# the claim says nothing of them. A claim that is not named here counts every result. What has fewer
# than SEEDS seeds (the maps) never counts.
_DFD = Part(says="DFD as described", methods=("DFD, *", "dual branch*"))
_NONE_MISSING_FOR_A_REASON = ("*mcar", "*strength 0 to 2")
_MMVM = Part(says="MMVM against every other model", methods=("MMVM against *",))
_ALONE = Part(says="MMVM against a VAE per view", methods=("MMVM against independent",))
PRIMARY = {
    "dfd-gain": (_DFD,),
    "dfd-mi-ablation": (
        Part(says="with the term against without", methods=("without MI, *", "dual branch*")),
    ),
    "dfd-tsne": (_DFD,),
    "dfd-gate": (
        Part(
            says="a learned gate, cause and bias on edges of their own",
            methods=("learned, *",),
            without=("*confounded-linear",),
        ),
    ),
    "dfd-gce": (
        Part(says="q = 0.7, easy bias", methods=("q = 0.7, *",), without=("*xor", "*parity")),
    ),
    "dfd-mi": (_DFD,),
    "dfd-bias-probe": (_DFD,),
    "dfd-intervention": (
        Part(says="DFD, something injected", methods=("DFD, *",), without=("*strength 0",)),
    ),
    "dfd-warmup": (Part(says="15 epochs against none", methods=("L_d 0, *",)),),
    "dfd-transformers": (_DFD,),
    "missingness-bias": (
        Part(
            says="the naive network loses to the oracle",
            methods=("naive, *",),
            without=_NONE_MISSING_FOR_A_REASON,
        ),
        Part(
            says="stratified adjustment gains on it",
            methods=("stratified, *", "deconfounder*"),
            without=_NONE_MISSING_FOR_A_REASON,
        ),
    ),
    "missingness-substitute": (
        Part(
            says="the substitute gains on the naive network",
            methods=("substitute*",),
            without=_NONE_MISSING_FOR_A_REASON,
        ),
    ),
    "distribution-bias": (
        Part(says="ERM loses elsewhere", methods=("ERM, *", "*, ERM")),
        Part(says="DFD gains on it", methods=("DFD, *",)),
    ),
    "deconfounding-compatible": (Part(says="both against neither", methods=("both*",)),),
    "mmvm-best-vae": (
        Part(
            says="MMVM against every other VAE, all labels",
            methods=("MMVM against *",),
            asks=("auroc * 100 of MMVM, minus auroc * 100 of *",),
        ),
    ),
    "mmvm-label-efficiency": (
        Part(
            says="MMVM with 10 % of the labels against supervised with all",
            methods=("MMVM against *",),
            asks=("auroc mean 10 of MMVM, minus auroc mean 100 of *",),
        ),
    ),
    "mmvm-stability": (_MMVM,),
    "mmvm-view-quality": (_ALONE,),
    "mmvm-soft-sharing": (
        Part(
            says="MMVM against no sharing",
            methods=("MMVM against no sharing", "MMVM against independent"),
        ),
    ),
    "mmvm-label-noise": (_MMVM,),
    "mmvm-single-modality": (_ALONE,),
    "mmvm-other-metrics": (_MMVM,),
    "mmvm-other-data": (_MMVM,),
}
EVERY = (Part(says="every result"),)
