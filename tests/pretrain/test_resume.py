"""Runs of version 0.1: their keys are translated, and they resume and export as if nothing had been renamed."""

import json
import shutil

import pytest

from jepa.errors import UserError
from jepa.fields import from_dict
from jepa.models import create_model, load_encoder, save_encoder
from jepa.pretrain import PretrainConfig, build_objective, trainer
from jepa.pretrain.export import ExportConfig
from jepa.pretrain.export import run as export
from jepa.pretrain.resume import translate_config
from tests.pretrain.conftest import checkpoints, differences

SIGREG = {"weight": 0.0, "slices": 1024, "tokens": 64, "global_views": 1, "hidden_dim": 2048, "out_dim": 128}


def as_version_0_1(config):
    """The saved configuration under the keys of version 0.1."""
    config = json.loads(json.dumps(config))
    data, train, objective = config["data"], config["train"], config["objective"]
    data["max_bad_share"] = data.pop("max_bad_fraction")
    data |= {"mode": "train", "resize_px": None}
    words = {"none": "none", "selective": "cheap", "full": "blocks"}
    train["recompute"] = words[train.pop("activation_checkpointing")]
    config["watch"] = config.pop("monitor")
    for mask in config["masks"]:
        mask["hidden"] = mask.pop("ratio")
        mask["kind"] = {"temporal": "slots"}.get(mask["kind"], mask["kind"])
    assert objective.pop("name") == "masked_prediction"
    for old, new in (
        ("predict", "target"), ("levels", "target_layers"), ("deep", "multi_layer"), ("changes", "temporally_centred"),
        ("components", "pca_components"), ("teacher", "target_encoder"), ("teacher_from", "target_encoder_from"),
    ):  # fmt: skip
        objective[old] = objective.pop(new)
    objective["sigreg"] = SIGREG | objective["sigreg"]
    del config["model"]["weights"]
    return config


def age(run):
    """Makes the newest checkpoint of a run one of version 0.1."""
    file = checkpoints(run)[-1] / "state.json"
    state = json.loads(file.read_text())
    state["config"] = as_version_0_1(state["config"])
    monitor = state.pop("monitor")
    state["watch"] = {"highest": monitor["highest"], "said": monitor["active"]}
    file.write_text(json.dumps(state))


def test_a_run_of_version_0_1_resumes_bit_identical_and_exports(tiny, tmp_path):
    keys = ("masks=[{kind: temporal, ratio: 0.5}]", "objective.target_layers=[0,1]", "train.steps=6")
    whole = trainer.train(tiny(*keys, out="whole"))
    half = tiny(*keys, out="parts")
    trainer.train(half)
    for later in checkpoints(half.out)[1:]:
        shutil.rmtree(later)
    age(half.out)
    folder = export(ExportConfig(half.out, str(tmp_path / "export")))
    assert load_encoder(folder).embed_dim == 128
    trainer.train(half)
    assert differences(whole, half.out) == []


def test_another_setting_of_an_old_run_is_named_under_its_present_key(tiny):
    run = trainer.train(tiny("train.steps=2"))
    age(run)
    with pytest.raises(UserError, match=r"objective\.distance: l1 -> l2"):
        trainer.train(tiny("train.steps=3", "objective.distance=l2"))


def test_views_of_version_0_1_are_the_view_invariance_objective(tiny):
    saved = as_version_0_1(trainer.to_dict(tiny()))
    saved["objective"] |= {
        "predict": "views",
        "teacher": "none",
        "sigreg": SIGREG | {"weight": 0.02, "slices": 8},
    }
    objective = from_dict(PretrainConfig, translate_config(saved)).objective
    assert type(objective).__name__ == "ViewInvarianceConfig"
    assert (objective.sigreg_weight, objective.slices, objective.out_dim) == (0.02, 8, 128)


def test_a_run_starts_from_exported_weights(tiny, tmp_path):
    first = trainer.train(tiny("train.steps=2", out="first"))
    folder = export(ExportConfig(str(first), str(tmp_path / "export")))
    objective = build_objective(tiny(f"model.weights={folder}"))
    exported = load_encoder(folder).state_dict()
    assert all((value == exported[name]).all() for name, value in objective.encoder.state_dict().items())
    again = build_objective(tiny())
    assert any(
        (a != b).any()
        for a, b in zip(objective.predictor.parameters(), again.predictor.parameters(), strict=True)
    )


def test_weights_of_another_architecture_are_refused(tiny, tmp_path):
    save_encoder(tmp_path / "other", create_model("vit_micro", patch_px=8))
    with pytest.raises(UserError, match=r"model\.weights=.*does not fit the model"):
        build_objective(tiny(f"model.weights={tmp_path / 'other'}"))


def test_a_stored_predictor_that_does_not_fit_is_never_left_out_without_a_word(tiny, tmp_path, caplog):
    folder = export(ExportConfig(str(trainer.train(tiny("train.steps=1"))), str(tmp_path / "out")))
    build_objective(tiny(f"model.weights={folder}"))
    assert not [record for record in caplog.records if record.name == "jepa.pretrain.factory"]
    build_objective(tiny(f"model.weights={folder}", "model.predictor_depth=2"))
    assert "other shapes" in caplog.text
    (folder / "predictor.safetensors").unlink()
    build_objective(tiny(f"model.weights={folder}"))
    assert caplog.text.count("The predictor starts from random weights") == 2
