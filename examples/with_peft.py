"""MultiLoRA with PEFT alone: adapt, train a few steps, save, load, merge.

python examples/with_peft.py MODEL OUT        MODEL: a folder or hub id of a causal language model
"""

from __future__ import annotations

import argparse

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from multilora import MultiLoraConfig, param_groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    arguments = parser.parse_args()

    base = AutoModelForCausalLM.from_pretrained(arguments.model)
    model = get_peft_model(base, MultiLoraConfig(r=4, num_loras=3))
    model.print_trainable_parameters()

    # As for LoRA, but for the learned scale, which starts at zero and has no weight decay.
    optimizer = torch.optim.AdamW(param_groups(model, 2e-3, weight_decay=0.01))

    batch = torch.randint(1, base.config.vocab_size, (4, 16), generator=torch.Generator().manual_seed(0))
    model.train()
    for step in range(20):
        loss = model(batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 0 or step == 19:
            print(f"step {step:2d}  loss {loss.item():.4f}")

    model.save_pretrained(arguments.out)  # adapter_config.json, adapter_model.safetensors
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(arguments.model), arguments.out).eval()
    with torch.no_grad():
        adapted = loaded(batch).logits
        merged = loaded.merge_and_unload(safe_merge=True)(batch).logits
    error = ((merged - adapted).abs().max() / adapted.abs().max()).item()
    print(f"merged and adapted logits differ by {error:.1e} of the largest logit")


if __name__ == "__main__":
    main()
