"""``unsmear models average``: weights of several checkpoints become one network's."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from support import tiny_pipeline
from unsmear.cli.main import run
from unsmear.models.cpfp.network import CPFP, CPFPConfig, PriorTensors

TINY = {"channels": 8, "encoder_depth": 1, "body_depth": 1, "decoder_depth": 1, "offset_groups": 2, "line_blocks": 1}


def random(seed: int, **changes) -> CPFP:
    torch.manual_seed(seed)
    model = CPFP.build(CPFPConfig(**TINY, **changes))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def average(*parts: str, out: Path, confidence: float = 1.0) -> CPFP:
    words = ["models", "average", *parts, "--confidence", str(confidence), "-o", str(out), "--overwrite"]
    assert run(words) == 0
    return CPFP.from_pretrained(out, low_cpu_mem_usage=False).eval()


def test_averages_by_share_and_confidence_with_a_missing_head(tmp_path):
    plain, other = random(0), random(1, neighbours=True)
    plain.save_pretrained(tmp_path / "plain")
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "last").mkdir()
    save_file(plain.state_dict(), tmp_path / "last" / "ema.safetensors")
    for first in ("plain", "last"):
        made = average(f"{tmp_path / first}:0.25", f"{tmp_path / 'other'}:0.75", out=tmp_path / "out").state_dict()
        for key, value in other.state_dict().items():
            expected = 0.75 * value + 0.25 * plain.state_dict().get(key, torch.zeros_like(value))
            torch.testing.assert_close(made[key], expected)
    firmer = average(f"{tmp_path / 'other'}:1", out=tmp_path / "firmer", confidence=1.5)
    frames = torch.rand(1, 1, 3, 32, 32) + 0.02 * torch.rand(1, 3, 3, 32, 32)
    unset = torch.zeros(1, 3, dtype=torch.bool)
    motion = torch.randn(2, 1, 3, 2, 4, 4)
    priors = PriorTensors(motion[0], motion[1], torch.rand(1, 3, 1, 8, 8), unset, unset, torch.full((1, 3), 0.5))
    with torch.inference_mode():
        change = other(frames, priors, pin=False).frames - frames
        torch.testing.assert_close(
            firmer(frames, priors, pin=False).frames - frames, 1.5 * change, atol=1e-5, rtol=1e-4
        )


def test_parts_that_cannot_be_averaged_give_a_one_line_error(tmp_path, capsys):
    random(0).save_pretrained(tmp_path / "a")
    random(0, neighbours=True).save_pretrained(tmp_path / "more")
    (tmp_path / "empty").mkdir()
    a, more, empty = (tmp_path / name for name in ("a", "more", "empty"))
    wrong = {
        (f"{a}:0.5",): (2, "add up to 0.5"),
        (f"{a}",): (2, "expected FOLDER:SHARE"),
        (f"{empty}:1",): (2, "none of the folders has a config.json"),
        (f"{empty}:0.5", f"{a}:0.5"): (1, "cannot be read"),
        (f"{more}:0.5", f"{a}:0.5"): (1, "has to_neighbours"),
    }
    for parts, (status, line) in wrong.items():
        assert run(["models", "average", *parts, "-o", str(tmp_path / "out")]) == status
        [line_of_it] = capsys.readouterr().err.splitlines()
        assert line in line_of_it and not (tmp_path / "out").exists()
    assert run(["models", "average", f"{a}:1", "-o", str(a)]) == 1
    assert "give --overwrite" in capsys.readouterr().err


def test_only_one_kind_of_network_is_averaged(tmp_path, capsys):
    tiny_pipeline.unet().save_pretrained(tmp_path / "other")
    assert run(["models", "average", f"{tmp_path / 'other'}:1", "-o", str(tmp_path / "out")]) == 2
    assert "holds a 'UNet2DConditionModel': only checkpoints of CPFP are averaged" in capsys.readouterr().err
