# SPDX-License-Identifier: MIT
"""Adds golden adapters and cases to tests/golden/tiny: what PEFT makes of combinations that its first kit has not, among them
everything beside low-rank pairs on a model with a tied head. Made with torch 2.13.0, transformers 5.23.0, PEFT 0.21.2, f32 on a CPU.

usage: make_more.py tests/golden/tiny   (writes adapters/NAME, cases.json and logits.safetensors; running it again changes nothing)
"""
import json
import os
import shutil
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
torch.backends.mkldnn.enabled = False
MARGIN = 0.02  # below it the two best logits are a coin toss between correct programs
ROWS = 2       # last logits kept of each case
TIED, BIASED = "llama-tied-bf16", "llama-bias"
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
PROMPTS = [[5, 17, 300, 9, 3, 7, 5], [44, 300, 1025, 17, 600, 61, 9, 12, 3]]  # hold the trained tokens

ADAPTERS = {
    "dora-embed-head": (BIASED, F32, dict(target_modules=["q_proj", "embed_tokens", "lm_head"], use_dora=True)),
    "dora-bias-all": (BIASED, F16, dict(target_modules=["q_proj", "down_proj"], use_dora=True, bias="all")),
    "dora-norm-tokens": (BIASED, BF16, dict(target_modules=["v_proj", "up_proj"], use_dora=True, modules_to_save=["norm"], trainable_token_indices=[300, 7])),
    "lora-bias-all": (BIASED, F32, dict(target_modules=["q_proj", "down_proj"], lora_bias=True, bias="all")),
    "lora-bias-only": (BIASED, F32, dict(target_modules=["k_proj", "gate_proj"], lora_bias=True, bias="lora_only")),
    "lora-bias-new": (TIED, F32, dict(target_modules=["q_proj", "o_proj", "up_proj", "lm_head"], lora_bias=True)),  # the base has no biases
    "save-linears": (BIASED, BF16, dict(target_modules=["q_proj"], modules_to_save=["1.mlp", "k_proj"])),
    "save-embed-tied": (TIED, BF16, dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "tokens-tied": (TIED, F32, dict(target_modules=["q_proj"], trainable_token_indices=[300, 5])),
    "tokens-tied-head": (TIED, F32, dict(target_modules=["q_proj", "lm_head"], trainable_token_indices=[5, 17])),
    "tokens-both": (BIASED, F32, dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [17, 5], "lm_head": [3, 9, 1025]})),
    "tokens-untied": (TIED, F32, dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [17, 5], "lm_head": [3, 9]})),
}


def base(tiny, name):
    return AutoModelForCausalLM.from_pretrained(f"{tiny}/models/{name}", dtype=torch.float32, attn_implementation="eager").eval()


def fill_pairs(model, g):
    """Random pairs of half the size of their weight; magnitudes and biases off their start."""
    for m in model.modules():
        if not len(getattr(m, "lora_A", {})) and not len(getattr(m, "lora_embedding_A", {})):
            continue
        embedding = len(m.lora_embedding_A) > 0
        a, b = (m.lora_embedding_A["default"], m.lora_embedding_B["default"]) if embedding else (m.lora_A["default"].weight, m.lora_B["default"].weight)
        a.copy_(torch.randn(a.shape, generator=g)), b.copy_(torch.randn(b.shape, generator=g))
        size = 0.5 * torch.linalg.norm(m.get_base_layer().weight) / (m.scaling["default"] * torch.linalg.norm(b @ a))
        a.mul_(size.sqrt()), b.mul_(size.sqrt())
        if not embedding and m.lora_B["default"].bias is not None:
            m.lora_B["default"].bias.copy_(0.3 * torch.randn(b.shape[0], generator=g))
        if len(m.lora_magnitude_vector):
            w = m.lora_magnitude_vector["default"].weight
            w.mul_(1 + 0.2 * torch.randn(w.shape, generator=g))


def fill_rest(model, g):
    for name, p in model.named_parameters():
        if "modules_to_save" in name:
            p.add_(0.3 * float(p.std()) * torch.randn(p.shape, generator=g))
        elif "trainable_tokens_delta" in name:
            p.add_(0.5 * float(p.std()) * torch.randn(p.shape, generator=g))
        elif name.endswith(".bias") and p.requires_grad and "lora_" not in name:
            p.add_(0.3 * torch.randn(p.shape, generator=g))


def save(tiny, name, number):
    model_name, dtype, config = ADAPTERS[name]
    model = get_peft_model(base(tiny, model_name), LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, lora_dropout=0.0, **config)).eval()
    g = torch.Generator().manual_seed(number)
    with torch.no_grad():
        fill_pairs(model, g)
        fill_rest(model, g)
    out = f"{tiny}/adapters/{name}"
    with tempfile.TemporaryDirectory() as d:
        model.save_pretrained(d, save_embedding_layers=False)
        tensors = {k: v.to(dtype).contiguous() for k, v in load_file(f"{d}/adapter_model.safetensors").items()}
        config = json.load(open(f"{d}/adapter_config.json")) | {"base_model_name_or_path": model_name}
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    save_file(tensors, f"{out}/adapter_model.safetensors", metadata={"format": "pt"})
    os.chmod(f"{out}/adapter_model.safetensors", 0o644)
    with open(f"{out}/adapter_config.json", "w") as f:
        json.dump(config, f, indent=1, sort_keys=True)


def case(model, name, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        greedy, margins, now = [], [], list(ids)
        for _ in range(8):
            best = torch.topk(model(input_ids=torch.tensor([now]), use_cache=False).logits[0, -1].float(), 2)
            greedy.append(int(best.indices[0])), margins.append(float(best.values[0] - best.values[1]))
            now.append(greedy[-1])
    n = next((i for i, m in enumerate(margins) if m < MARGIN), len(margins))
    top = torch.topk(logits, 5)
    fields = dict(name=name, ids=ids, greedy=greedy[:n], greedy_min_margin=round(min(margins[:n], default=0), 4), max_abs_logit=round(float(logits.abs().max()), 4),
                  top5_ids=top.indices.tolist(), top5_logits=[[round(float(v), 5) for v in r] for r in top.values], logsumexp=[round(float(v), 5) for v in torch.logsumexp(logits, -1)])
    return fields, logits[-ROWS:].contiguous().clone()


def main(tiny):
    cases = [c for c in json.load(open(f"{tiny}/cases.json"))["cases"] if c["adapter"] not in ADAPTERS]
    logits = {k: v for k, v in load_file(f"{tiny}/logits.safetensors").items() if k.split("/")[0] not in ADAPTERS}
    plain = {}
    for number, (name, (model_name, _, _)) in enumerate(ADAPTERS.items()):
        save(tiny, name, number)
        model = PeftModel.from_pretrained(base(tiny, model_name), f"{tiny}/adapters/{name}").eval()
        for i, ids in enumerate(PROMPTS):
            fields, rows = case(model, f"{name}/{i}", ids)
            cases.append(fields | {"adapter": name, "model": f"models/{model_name}"})
            logits[f"{name}/{i}"] = rows
            if (model_name, i) not in plain:
                plain[model_name, i] = case(base(tiny, model_name), "", ids)[1]
            away = float((rows - plain[model_name, i]).abs().max())
            print(f"{name}/{i}: {away:.2f} from the base, {len(fields['greedy'])} tokens")
            assert away > 0.1
    with open(f"{tiny}/cases.json", "w") as f:
        json.dump({"cases": cases}, f, ensure_ascii=True, separators=(",", ":"))
    save_file(logits, f"{tiny}/logits.safetensors")
    os.chmod(f"{tiny}/logits.safetensors", 0o644)


if __name__ == "__main__":
    main(sys.argv[1])
