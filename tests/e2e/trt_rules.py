"""The rules of TensorRT-LLM's checkpoints (spec/export.md §4), written down a second time: what is in the file of one GPU, and how
the files of several make one."""
import numpy as np

LINEARS = ["attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"]
ROW_PARALLEL = {"attention.dense", "mlp.proj"}  # GPUs share the columns

# suffix → (dtype, shape) of a linear [n, k]; "float": the dtype of what is not quantized
TENSORS = {
    "int8_sq": lambda n, k: {"weight": ("I8", [n, k]), "weights_scaling_factor": ("F32", [n]), "activation_scaling_factor": ("F32", [1]),
                             "prequant_scaling_factor": ("float", [k])},
    "int8_wo": lambda n, k: {"weight": ("I8", [n, k]), "weights_scaling_factor": ("F32", [n])},
    "fp8": lambda n, k: {"weight": ("F8_E4M3", [n, k]), "weights_scaling_factor": ("F32", [1]), "activation_scaling_factor": ("F32", [1])},
    "fp8_pc_pt": lambda n, k: {"weight": ("F8_E4M3", [n, k]), "per_channel_scale": ("F32", [n])},
    "int4_awq": lambda n, k: {"weight": ("I8", [n // 2, k]), "weights_scaling_factor": ("F32", [n, k // 128]),
                              "prequant_scaling_factor": ("float", [k])},
    "w4a8_awq": lambda n, k: {"weight": ("I8", [n // 2, k]), "weights_scaling_factor": ("F32", [n, k // 128]),
                              "weights_scaling_factor_2": ("F32", [1]), "activation_scaling_factor": ("F32", [1]),
                              "prequant_scaling_factor": ("float", [k])},
    "nvfp4": lambda n, k: {"weight": ("U8", [n, k // 2]), "weights_scaling_factor": ("F8_E4M3", [n, k // 16]),
                           "weights_scaling_factor_2": ("F32", []), "activation_scaling_factor": ("F32", [])},
}  # fmt: skip
ITEM = {"I8": np.int8, "U8": np.uint8, "F8_E4M3": np.uint8, "F32": np.float32, "BF16": np.uint16, "F16": np.uint16}


def array(tensor):
    """(dtype, shape, bytes) → NumPy; types that it does not know as their bits."""
    dtype, shape, data = tensor
    return np.frombuffer(data, ITEM[dtype]).reshape(shape)


def number(tensor):
    """As float32."""
    dtype, shape, data = tensor
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    assert dtype == "F32"
    return array(tensor)


def sections(text, name, rows):
    """Extents of the rows that are shared out on their own."""
    if name == "attention.qkv":
        head = text["head_dim"]
        whole = [text["heads"] * head, text["kv_heads"] * head, text["kv_heads"] * head]
    elif name == "mlp.fc" and text.get("fused"):
        whole = [text["intermediate"]] * 2
    else:
        return [rows]
    scale = sum(whole) // rows  # 2: two rows of four bits lie in a byte
    return [extent // scale for extent in whole]


def joined(text, name, suffix, parts):
    """One tensor of a linear from those of all ranks of a stage. @param parts  arrays, rank by rank"""
    ranks, first = len(parts), parts[0]
    by_columns = name in ROW_PARALLEL
    along_rows = suffix == "weight" or (suffix in ("weights_scaling_factor", "per_channel_scale", "bias") and first.size > 1)
    if by_columns and (suffix == "weight" or (suffix == "weights_scaling_factor" and first.ndim == 2)):
        return np.concatenate(parts, axis=1)
    if by_columns and suffix == "prequant_scaling_factor":
        return np.concatenate(parts)
    if by_columns or not along_rows:
        assert all(np.array_equal(part, first) for part in parts), (name, suffix)
        return first
    kv_copies = max(1, ranks // text["kv_heads"]) if name == "attention.qkv" else 1
    sizes = sections(text, name, sum(part.shape[0] for part in parts) if kv_copies == 1 else None) if kv_copies == 1 else None
    if sizes is None:  # key/value heads lie on several ranks each
        unit = first.shape[0] // (text["heads"] // ranks + 2)
        local = [unit * (text["heads"] // ranks), unit, unit]
    else:
        local = [size // ranks for size in sizes]
    whole, begin = [], 0
    for section, extent in enumerate(local):
        pieces = [part[begin : begin + extent] for part in parts]
        if section > 0 and kv_copies > 1:
            for rank, piece in enumerate(pieces):
                assert np.array_equal(piece, pieces[rank // kv_copies * kv_copies])
            pieces = pieces[::kv_copies]
        whole += pieces
        begin += extent
    return np.concatenate(whole)


def merged(files, text, tp, pp, layers):
    """What the file of one GPU would hold. @param files  tensors by name, rank by rank"""
    one, per_stage = {}, layers // pp
    for stage in range(pp):
        ranks = files[stage * tp : (stage + 1) * tp]
        assert all(rank.keys() == ranks[0].keys() for rank in ranks)
        for name in ranks[0]:
            parts = [array(rank[name]) for rank in ranks]
            if name.startswith("transformer.layers."):
                _, _, local, rest = name.split(".", 3)
                new = f"transformer.layers.{stage * per_stage + int(local)}.{rest}"
                linear, _, suffix = rest.rpartition(".")
                if linear in LINEARS:
                    one[new] = joined(text, linear, suffix, parts)
                    continue
            else:
                new = name
            if name in ("transformer.vocab_embedding.weight", "lm_head.weight"):
                one[new] = np.concatenate(parts)
            else:
                assert all(np.array_equal(part, parts[0]) for part in parts), name
                one[new] = parts[0]
    return one
