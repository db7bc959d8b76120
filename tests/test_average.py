"""tools/average.py: weights of several checkpoints become one network's."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from unsmear.models.cpfp import CPFP, CPFPConfig, PriorTensors

TOOL = Path(__file__).parents[1] / "tools" / "average.py"
TINY = {"channels": 8, "encoder_depth": 1, "body_depth": 1, "decoder_depth": 1, "offset_groups": 2, "line_blocks": 1}


def random(seed: int, **changes) -> CPFP:
    torch.manual_seed(seed)
    model = CPFP.build(CPFPConfig(**TINY, **changes))
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def average(*parts: str, out: Path, confidence: float = 1.0) -> CPFP:
    command = [sys.executable, str(TOOL), *parts, "--confidence", str(confidence), "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return CPFP.from_pretrained(out, low_cpu_mem_usage=False).eval()


def test_shares_confidence_and_a_head_that_one_lacks(tmp_path):
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
        change = other(frames, priors).frames - frames
        torch.testing.assert_close(firmer(frames, priors).frames - frames, 1.5 * change, atol=1e-5, rtol=1e-4)


def test_shares_that_do_not_add_up_are_refused(tmp_path):
    random(0).save_pretrained(tmp_path / "a")
    command = [sys.executable, str(TOOL), f"{tmp_path / 'a'}:0.5", "-o", str(tmp_path / "out")]
    told = subprocess.run(command, check=False, capture_output=True, text=True)
    assert told.returncode == 1 and "add up to 0.5" in told.stderr and not (tmp_path / "out").exists()
