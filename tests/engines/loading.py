"""What the two engines' loaders have in common: watching what becomes of a checkpoint's tensors, and answering questions.

Runs in .venv-engines, as does everything in this folder. A question is one JSON line on stdin, its answer one on stdout:

  {"directory": checkpoint, "capability": of the GPU, such as 100}
  {"error": None or the engine's words, "config": class of its quantization config,
   "modules": {runtime name: class of method or scheme, None where unquantized}, "kv": {attention: class of method},
   "unread": tensors of the files that no parameter took, "unfilled": parameters that the files did not fill,
   "dtypes": [[tensor, dtype in the file, dtype of the parameter]] where these differ}
"""

import json
import os
import sys
import traceback

import torch
from torch.overrides import TorchFunctionMode


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


def tensors_in(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


class Watch(TorchFunctionMode):
    """Follows tensors of a checkpoint, and what is made of them, until they are copied into parameters."""

    def __init__(self):
        super().__init__()
        self.names = {}  # of the checkpoint's tensors that a storage holds values of
        self.dtypes = {}  # of the checkpoint's tensors
        self.alive = []  # or storages would be taken again
        self.read = set()
        self.written = {}  # storage: elements
        self.converted = set()

    def watched(self, weights):
        for name, tensor in weights:
            own = tensor.clone()
            self.names[storage(own)] = frozenset([name])
            self.dtypes[name] = own.dtype
            self.alive.append(own)
            yield name, own

    def names_of(self, values):
        known = [self.names.get(storage(tensor), frozenset()) for tensor in tensors_in(values) if tensor.device.type != "meta"]
        return frozenset().union(*known)

    def write(self, target, source):
        names = self.names_of([source])
        self.read |= names
        self.written[storage(target)] = self.written.get(storage(target), 0) + target.numel()
        for name in names:
            if self.dtypes[name] != target.dtype:
                self.converted.add((name, str(self.dtypes[name]), str(target.dtype)))

    def __torch_function__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if function is torch.Tensor.copy_ or function is torch.Tensor.fill_:
            self.write(arguments[0], arguments[1])
        elif function is torch.Tensor.__setitem__:
            self.write(arguments[0][arguments[1]], arguments[2])
        elif function is torch.Tensor.item:
            self.read |= self.names_of(arguments)
        else:
            for tensor in tensors_in([result]):
                if tensor.device.type != "meta" and storage(tensor) not in self.names:
                    names = self.names_of([*arguments, *(options or {}).values()])
                    if names:
                        self.names[storage(tensor)] = names
                        self.alive.append(tensor)
        return result

    def unread(self):
        return sorted(set(self.dtypes) - self.read)

    def unfilled(self, model):
        """Parameters without values from the files, or with some elements missing."""
        return sorted(name for name, parameter in model.named_parameters()
                      if parameter.numel() and self.written.get(storage(parameter), 0) < parameter.numel())  # fmt: skip


def class_name(value):
    return type(value).__name__


def methods(model, is_attention):
    """({runtime name: method or None}, {attention: method}) of the modules that the engine gives a quantization method"""
    modules, kv = {}, {}
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        if method is None:
            continue
        if is_attention(module):
            kv[name] = class_name(method)
            continue
        scheme = getattr(module, "scheme", None)
        modules[name] = None if "Unquantized" in class_name(method) else class_name(method if scheme is None else scheme)
    return modules, kv


def answer(question, load):
    """@param load  (question, watch) -> (quantization config, model, is_attention)"""
    watch = Watch()
    try:
        config, model, is_attention = load(question, watch)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{class_name(error)}: {error}"}
    modules, kv = methods(model, is_attention)
    return {"error": None, "config": class_name(config), "modules": modules, "kv": kv, "unread": watch.unread(),
            "unfilled": watch.unfilled(model), "dtypes": sorted(watch.converted)}  # fmt: skip


def serve(load):
    """Answers questions until stdin ends. What engines print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), load)), file=answers, flush=True)
