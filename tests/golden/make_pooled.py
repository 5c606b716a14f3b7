# SPDX-License-Identifier: MIT
"""What transformers and PEFT make of some golden cases' last hidden states (behind the final norm): for each case three rows, the mean,
the last token's and the first token's. Made with torch 2.13.0, transformers 5.23.0, PEFT 0.21.2, f32 on a CPU.

usage: make_pooled.py tests/golden/tiny   (writes pooled.safetensors; running it again changes nothing)
"""
import json
import os
import sys

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
torch.backends.mkldnn.enabled = False
CASES = ["llama-gqa/0", "llama-gqa/3", "llama-gqa/long", "qv/1", "all/2", "patterns/0", "embed/1", "dora/2", "save-embed-norm/0", "token-idx/1",
         "llama-tied-bf16/long", "tied-all/1", "tokens-tied/1", "llama-f16-shard/2", "llama-bias/1", "bias-all/0", "lora-bias/2", "dora-norm-tokens/0",
         "save-linears/1", "yarn/2", "spm-all/2", "mistral-headdim/long", "mistral/1"]


def pooled(model, ids):
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states[-1][0].float()
    return torch.stack([states.double().mean(0).float(), states[-1], states[0]]).contiguous()


def main(tiny):
    cases = {c["name"]: c for c in json.load(open(f"{tiny}/cases.json"))["cases"]}
    out = {}
    for name in CASES:
        c = cases[name]
        path = f"{tiny}/{c['model']}"
        base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        model = PeftModel.from_pretrained(base, f"{tiny}/adapters/{c['adapter']}").eval() if c["adapter"] else base
        out[name] = pooled(model, c["ids"])
        if c["adapter"]:
            plain = pooled(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval(), c["ids"])
            away = float((out[name] - plain).abs().max())
            print(f"{name}: {away:.2f} from the base, largest {float(out[name].abs().max()):.1f}")
            assert away > 0.01
    save_file(out, f"{tiny}/pooled.safetensors")
    os.chmod(f"{tiny}/pooled.safetensors", 0o644)


if __name__ == "__main__":
    main(sys.argv[1])
