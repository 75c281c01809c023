import pytest
import torch

from dfdlib.data import Cohort
from dfdlib.graph import EdgeListGRAPE, edge_index, to_hetero_data
from dfdlib.models import GRAPE, Classifier


def cohort():
    labs = torch.randn(5, 3)
    labs[1] = torch.nan
    ward = torch.tensor([[1], [2], [1], [2], [3]])
    x = {"labs": labs, "ward": ward}
    return Cohort(x=x, kinds={"ward": "categorical"}, y=[0, 1, 0, 1, 1])


def test_edges_are_the_observed_pairs():
    observed = torch.rand(6, 4) < 0.5
    edges = edge_index(observed)
    again = torch.zeros_like(observed)
    again[edges[0], edges[1]] = True
    assert torch.equal(again, observed)
    assert edges.shape[1] == observed.sum()


def test_export_holds_graph_labels_and_values():
    data = cohort()
    graph = to_hetero_data(data)
    assert graph["patient"].num_nodes == 5
    assert graph["modality"].name == ["labs", "ward"]
    assert torch.equal(graph["patient"].y, data.y)
    assert torch.equal(graph["patient"]["x_labs"], data.x["labs"])
    there, back = (
        graph[kind].edge_index
        for kind in [("patient", "has", "modality"), ("modality", "of", "patient")]
    )
    assert torch.equal(there, back.flip(0))
    assert not ((there[0] == 1) & (there[1] == 0)).any()  # patient 1 has no laboratory
    assert graph.validate()


def test_the_exported_graph_gives_the_dense_embedding():
    """From the exported edges and tokens alone, back to a grid, to the same embedding."""
    data = cohort()
    model = Classifier(backbone=GRAPE(d=8), schema=data.schema)
    model.prepare(data)
    tokens, observed = model.tokens(next(data.batches(5)))
    graph = to_hetero_data(data, tokens=tokens.detach())
    edge = graph["patient", "has", "modality"]
    grid = torch.zeros_like(tokens)
    grid[edge.edge_index[0], edge.edge_index[1]] = edge.edge_attr
    twin = EdgeListGRAPE(d=8, n_modalities=2)
    twin.load_state_dict(model.backbone.state_dict(), strict=False)
    torch.testing.assert_close(twin(grid, observed), model.backbone(tokens, observed))


def test_refuses_tokens_of_other_patients():
    with pytest.raises(ValueError, match=r"= \(5, 2\) \+ \(d,\), but tokens.shape = \(4, 2, 8\)"):
        to_hetero_data(cohort(), tokens=torch.zeros(4, 2, 8))
