"""Backbones, methods and heads."""

from dfdlib.models.additive import Invariant, Substitute
from dfdlib.models.backbone import Backbone
from dfdlib.models.baselines import CORAL, IRM, VREx
from dfdlib.models.classifier import Classifier, Step
from dfdlib.models.dfd import DFD
from dfdlib.models.encoders import CodeBag
from dfdlib.models.grape import GRAPE
from dfdlib.models.group_dro import GroupDRO
from dfdlib.models.heads import Deconfounder, Head, Linear
from dfdlib.models.lff import LfF
from dfdlib.models.m3care import M3Care
from dfdlib.models.method import Method, Stage
from dfdlib.models.muse import MUSE
from dfdlib.models.routes import NWGM, Dropout, InverseProbability, Prototypes, Stratified
from dfdlib.models.series import SeriesGRU, SeriesTransformer
from dfdlib.models.transformer import TokenTransformer
from dfdlib.models.vae import MultimodalVAE

__all__ = [
    "CORAL",
    "DFD",
    "GRAPE",
    "IRM",
    "MUSE",
    "NWGM",
    "Backbone",
    "Classifier",
    "CodeBag",
    "Deconfounder",
    "Dropout",
    "GroupDRO",
    "Head",
    "Invariant",
    "InverseProbability",
    "LfF",
    "Linear",
    "M3Care",
    "Method",
    "MultimodalVAE",
    "Prototypes",
    "SeriesGRU",
    "SeriesTransformer",
    "Stage",
    "Step",
    "Stratified",
    "Substitute",
    "TokenTransformer",
    "VREx",
]
