"""Hostile and damaged files: always a sentence or a correct load; never a crash, memory or code."""

from __future__ import annotations

import resource
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from harness.faults.fuzzing import MARK, make_case, read_case
from pack.bundles.bundle import Bundle, check_name
from pack.bundles.load import load_bundle
from pack.bundles.save import Container, save_bundle

CASES, BLOCK = 2000, 250
MEGABYTE = 1024**2


@pytest.mark.parametrize("start", range(0, CASES, BLOCK))
def test_two_thousand_files_are_loaded_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    """Fixed seeds; `dev.py fuzz` goes on with more of them."""
    monkeypatch.chdir(tmp_path)
    counts, slowest = Counter(), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(start, start + BLOCK):
        name, content = make_case(seed)
        path = tmp_path / name
        path.write_bytes(content)
        began = time.process_time()
        try:
            counts[read_case(path)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.process_time() - began)
        path.unlink()
    assert sum(counts.values()) == BLOCK and min(counts["loaded"], counts["refused"]) > 10
    assert not (tmp_path / MARK).exists(), "a file ran code"
    assert slowest < 20
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 600, f"{grown:.0f} MB more for files of at most 5 MB"


NAMES = st.text(min_size=1, max_size=40)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_any_name_comes_back_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("names") / "b.safetensors"
    vectors = {name: {"clip_l": torch.full((1, 768), 1.0 + n)} for n, name in enumerate(names)}
    bundle = Bundle(family="sd15", lora={}, embeddings=vectors)
    for container in (Container.A1111, Container.HEADER):
        try:
            for name in names:
                check_name(name)
        except ValueError:
            with pytest.raises(ValueError, match="choose another name"):
                save_bundle(bundle, path, container, None)
            continue
        save_bundle(bundle, path, container, None)
        found = load_bundle(path).embeddings
        assert found.keys() == vectors.keys()
        assert all(torch.equal(found[n]["clip_l"], vectors[n]["clip_l"]) for n in names)
        path.unlink()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(metadata=st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=5))
def test_any_header_text_is_harmless(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("header") / "b.safetensors"
    encodable = {k: v for k, v in metadata.items() if (k + v).isprintable() or (k + v).isascii()}
    save_file({"bundle_emb.cat.clip_l": torch.ones(1, 768)}, path, encodable)
    assert torch.equal(load_bundle(path).embeddings["cat"]["clip_l"], torch.ones(1, 768))


def test_ten_thousand_names_load_in_seconds(tmp_path: Path) -> None:
    made = {f"bundle_emb.n{number}.clip_l": torch.ones(1, 8) for number in range(10_000)}
    save_file(made, tmp_path / "b.safetensors")
    began = time.process_time()
    assert len(load_bundle(tmp_path / "b.safetensors").embeddings) == 10_000
    assert time.process_time() - began < 10


def test_a_header_of_fifty_megabytes_costs_no_more_than_a_few_times_that(tmp_path: Path) -> None:
    save_file(
        {"emb_params": torch.ones(1, 768)}, tmp_path / "b.safetensors", {"x": "y" * 50 * MEGABYTE}
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert load_bundle(tmp_path / "b.safetensors").names == ["b"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024
