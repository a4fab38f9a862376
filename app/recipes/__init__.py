"""Built-in recipes: training programs that the service ships.

demo.py     `demo`: a small language model on the CPU, with resumes that repeat bit for bit
charlm.py   its model, optimizer and data, in NumPy
hf_sft.py   `hf-sft` and `torchrun`: supervised fine-tuning with TRL

The agent starts `python -m app.recipes.demo` or `….hf_sft`, under torchrun for `torchrun`. They
import the SDK (`llm_train`) and their own libraries, nothing else of the service. How to add one:

1. write a module here whose `train(reporter)` follows the reporter's spec, as `demo` does;
2. add a `Recipe` with its command to BUILT_IN in `app/domain/recipes.py`;
3. describe it in `app/docs/recipes.md`.

An operator's own recipes need no code here: they are tables of the recipe file.
"""
