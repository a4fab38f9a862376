"""Tiny inputs for real trainers, made on the spot and without any hub: `python inputs.py FOLDER`.

FOLDER/model        a Llama of two layers (from its config, random weights) with a byte-level BPE
                    tokenizer that is trained here
FOLDER/sft          train.jsonl and test.jsonl with `prompt` and `completion`, of CPython's own help
"""

import json
import sys
from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def make(folder: Path) -> None:
    text = "\n\n".join(topics[key] for key in sorted(topics))
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([text], vocab_size=512, special_tokens=["<s>", "</s>", "<pad>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        model_max_length=128,
    )  # fmt: skip
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [
        {"prompt": f"What is {key}?", "completion": " " + topics[key][:200]}
        for key in sorted(topics)
    ]
    (folder / "sft").mkdir()
    for name, part in (("train", rows), ("test", rows[:10])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / "sft" / f"{name}.jsonl").write_text(lines)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
