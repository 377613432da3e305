"""From a MultiLoRA adapter to a plain LoRA that PEFT, vLLM, SGLang and llama.cpp load without this package.

    python examples/export_to_server.py [ADAPTER OUT]

Without arguments it makes a small random model and adapter in a temporary folder and shows that nothing is lost.
"""

import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from multilora import MultiLoraConfig, export_lora
from multilora.adapter.export.peft import FORMAT


def make_adapter(folder: Path) -> Path:
    """A random base model and an adapter on it, as training would leave them."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=100, **shape))
    base.save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    # init_weights=False stands for training: the adapter changes the model.
    get_peft_model(base, MultiLoraConfig(r=8, num_loras=3, init_weights=False)).save_pretrained(folder / "adapter")
    return folder / "adapter"


def largest_difference(adapter: Path, exported: Path, base: str) -> float:
    """The largest difference of the logits, relative to the largest logit."""
    tokens = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        ours, theirs = (
            PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()(tokens).logits
            for folder in (adapter, exported)
        )
    return float((ours - theirs).abs().max() / ours.abs().max())


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        if len(sys.argv) == 3:
            adapter, out = Path(sys.argv[1]), Path(sys.argv[2])
        else:
            adapter, out = make_adapter(Path(temporary)), Path(temporary) / "lora"

        report = export_lora(adapter, out)  # rank=16 would truncate and report the error

        print(f"{len(report.layers)} layers, rank {report.rank}, {report.size:,} bytes")
        if report.base_model:
            difference = largest_difference(adapter, out, report.base_model)
            print(f"logits differ by {difference:.1e} of the largest (rounding)")
        for server, command in FORMAT.server_lines(report):
            print(f"{server}: {command}")


if __name__ == "__main__":
    main()
