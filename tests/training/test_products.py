"""Matrix products by either library, against plain sums."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import utils.training.linear
from models import build_model
from utils.training.linear import by_product, product, product_into, replaced

A = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
B = torch.tensor([[1.0, 0.0, -1.0], [2.0, 2.0, 2.0]])


@pytest.fixture(params=[False, True], ids=["mkl", "onednn"])
def library(request, monkeypatch):
    monkeypatch.setattr(utils.training.linear, "by_onednn", lambda: request.param)


def test_product_by_hand(library):
    # Rows of A times rows of B: 1-3, 2+4+6; 4-6, 8+10+12. Then the biases 10 and 20.
    assert product(A, B).tolist() == [[-2.0, 12.0], [-2.0, 30.0]]
    assert product(A, B, torch.tensor([10.0, 20.0])).tolist() == [[8.0, 32.0], [8.0, 50.0]]
    place = torch.full((2, 2), torch.nan)
    product_into(place, A, B)
    assert place.tolist() == [[-2.0, 12.0], [-2.0, 30.0]]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.tuples(st.booleans(), st.booleans()), st.data())
@settings(max_examples=60, deadline=None)
def test_libraries_agree_with_sums_in_float64(m, k, n, transposed, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    a, b = (
        torch.randn(k, rows, generator=generator).t() if turned else torch.randn(rows, k, generator=generator)
        for rows, turned in zip((m, n), transposed, strict=True)
    )
    # A slice of a longer vector, as gradients have it: not aligned to anything.
    place = torch.empty(m * n + 3)[3:].view(m, n)
    expected = (a.double()[:, None] * b.double()[None]).sum(2)
    for onednn in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(utils.training.linear, "by_onednn", lambda onednn=onednn: onednn)
            patch.setattr(utils.training.linear, "AT_ONCE", data.draw(st.sampled_from([1, 100, 2**20])))
            product_into(place, a, b)
            assert torch.allclose(product(a, b).double(), expected, rtol=1e-5, atol=1e-5)
            assert torch.allclose(place.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("processor", "capability", "chosen"),
    [
        ("vendor_id : AuthenticAMD", "AVX512", True),
        ("AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", "AVX512", True),
        ("vendor_id : AuthenticAMD", "AVX2", False),
        ("vendor_id : GenuineIntel", "AVX512", False),
        ("", "DEFAULT", False),
    ],
)
def test_onednn_is_for_amd_with_avx512(processor, capability, chosen, monkeypatch):
    monkeypatch.setattr(utils.training.linear, "cpu_facts", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert utils.training.linear.by_onednn.__wrapped__() is chosen


def test_float64_and_its_gradient_stay_as_they_are(library):
    assert product(A.double(), B.double()).dtype == torch.float64


def test_fully_connected_layers_compute_by_product_and_are_as_before_afterwards(library):
    model = build_model("mlp", (1, 4, 4), 3, hidden_sizes=(8,))
    images = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, calls = model(images), []
        plain = utils.training.linear.product
        with pytest.MonkeyPatch.context() as patch, replaced(by_product(model)):
            patch.setattr(utils.training.linear, "product", lambda *a: calls.append(a[0].shape) or plain(*a))
            assert torch.allclose(model(images), expected, atol=1e-6)
    assert calls == [(5, 16), (5, 8)]
    with pytest.raises(KeyboardInterrupt), replaced(by_product(model)):
        raise KeyboardInterrupt
    assert not any("forward" in vars(module) for module in model.modules())
