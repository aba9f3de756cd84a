"""`visq convert`: the same numbers in another layout, there and back, and refusals where they are not the same."""
import json
import re
import shutil
import struct

import pytest

import test_families  # (its imports prepare the way to the toy models)
import engine_rules
from test_data_free import rename
from test_families import LINEAR, TOWER, text_folder
from test_more_formats import damaged
from test_quantize import digest, tensors

toy = test_families.toy
LAYOUTS = ["autoawq", "gptq", "compressed-tensors", "modelopt"]  # that have INT4
ASYMMETRIC = LAYOUTS[:3]
UP = "language_model.model.layers.0.mlp.up_proj"
SUFFIX = re.compile(r"\.(weight_packed|qweight|weight)$")


def refused(visq, *arguments):
    result = visq("convert", *arguments, check=False)
    out = arguments[arguments.index("--out") + 1]
    assert result.returncode == 2 and not out.exists() and not out.with_name(out.name + ".partial").exists()
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def made(visq, demo, tmp_path_factory):
    """Scales that F16 holds, which the layouts that store others hold too; and those of modelopt, which F16 does not hold."""
    out = tmp_path_factory.mktemp("made")
    visq("quantize", demo / "model", "-f", "w4a16,w4a16_asym", "--layout", "autoawq", "-o", out)
    visq("quantize", demo / "model", "-f", "w4a16,w4a16_nvfp4,int8_wo", "--layout", "modelopt", "-o", out / "modelopt")
    return out


@pytest.fixture(scope="module")
def converted(visq, made, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted")
    for layout in LAYOUTS:
        visq("convert", made / "w4a16", "--to", layout, "--out", out / layout)
    for layout in ASYMMETRIC:
        visq("convert", made / "w4a16_asym", "--to", layout, "--out", out / f"asym-{layout}")
    return out


def test_a_layout_becomes_itself(made, converted):
    assert digest(converted / "autoawq") == digest(made / "w4a16")
    assert digest(converted / "asym-autoawq") == digest(made / "w4a16_asym")


@pytest.mark.parametrize("kind, layouts", [("", LAYOUTS), ("asym-", ASYMMETRIC)])
def test_there_and_back_gives_equal_bytes(visq, converted, tmp_path, kind, layouts):
    for source in layouts:
        for target in layouts:
            visq("convert", converted / f"{kind}{source}", "--to", target, "--out", tmp_path / f"{source}-{target}")
            assert digest(tmp_path / f"{source}-{target}") == digest(converted / f"{kind}{target}"), (source, target)


def test_outputs_pass_the_check(visq, demo, converted):
    folders = sorted(converted.iterdir())
    assert len(folders) == len(LAYOUTS) + len(ASYMMETRIC)
    visq.check(folders)
    visq.check(folders, "--source", demo / "model")


def test_the_summary_and_the_report_tell_the_layout(visq, made, converted, tmp_path):
    said = visq.json("convert", made / "w4a16", "--to", "gptq", "--out", tmp_path / "out")
    assert (said["format"], said["from"], said["to"], said["linears"]) == ("w4a16", "autoawq", "gptq", 35)
    for name, found in tensors(tmp_path / "out").items():
        said["bytes_after"] -= len(found[2])
    assert said["bytes_after"] == 0
    report = json.loads((converted / "gptq" / "visq_report.json").read_text())
    assert report["layout"] == "gptq" and report["converted_from"] == "autoawq"
    assert visq.json("inspect", converted / "gptq")["quantization"]["layout"] == "gptq"


def test_the_model_answers_as_before(visq, demo, converted, made):
    rows = visq.json("eval", *(converted / layout for layout in LAYOUTS), "--against", demo / "model", "--data", demo / "questions.jsonl",
                     "--samples", 12)  # fmt: skip
    assert len({row["mean_kl"] for row in rows[1:]}) == 1 and rows[1]["mean_kl"] > 0
    assert len({row["accuracy"] for row in rows[1:]}) == 1


def words(data):
    return struct.unpack(f"<{len(data) // 4}I", data)


def test_codes_stand_where_the_formats_have_them(demo, converted):
    """Unpacked here, by the order of spec/export.md §6: all are the same matrix [rows, columns] of 0…15."""
    rows, columns = tensors(demo / "model")[UP + ".weight"][1]
    nibbles = lambda word, order: [word >> 4 * place & 15 for place in order]  # noqa: E731
    awq = words(tensors(converted / "autoawq")[UP + ".qweight"][2])
    gptq = words(tensors(converted / "gptq")[UP + ".qweight"][2])
    packed = words(tensors(converted / "compressed-tensors")[UP + ".weight_packed"][2])
    natural = range(8)
    of_awq = [sum((nibbles(word, [0, 4, 1, 5, 2, 6, 3, 7]) for word in awq[k * rows // 8 : (k + 1) * rows // 8]), []) for k in range(columns)]
    of_gptq = [[] for _ in range(rows)]
    for index, word in enumerate(gptq):
        of_gptq[index % rows] += nibbles(word, natural)
    of_packed = [sum((nibbles(word, natural) for word in packed[n * columns // 8 : (n + 1) * columns // 8]), []) for n in range(rows)]
    assert of_gptq == of_packed == [list(row) for row in zip(*of_awq)]
    assert len({code for row in of_packed for code in row}) == 15
    zeros = tensors(converted / "gptq")[UP + ".qzeros"][2]
    assert set(words(zeros)) == {0x77777777}
    assert set(words(tensors(converted / "autoawq")[UP + ".qzeros"][2])) == {0x88888888}


def test_nvfp4_between_modelopt_and_compressed_tensors(visq, made, tmp_path):
    visq("convert", made / "modelopt" / "w4a16_nvfp4", "--to", "compressed-tensors", "--out", tmp_path / "there")
    visq("convert", tmp_path / "there", "--to", "modelopt", "--out", tmp_path / "back")
    source, there, back = (tensors(path) for path in (made / "modelopt" / "w4a16_nvfp4", tmp_path / "there", tmp_path / "back"))
    assert source.keys() == back.keys()
    scale_2 = [name for name in source if name.endswith(".weight_scale_2")]
    assert len(scale_2) == 35
    for name in scale_2:  # the other layout has the reciprocal
        module = name.removesuffix(".weight_scale_2")
        assert there[module + ".weight_packed"][2] == source[module + ".weight"][2]
        assert there[module + ".weight_scale"] == source[module + ".weight_scale"]
        before, after = (int.from_bytes(found[name][2], "little") for found in (source, back))
        assert abs(before - after) <= 1
    assert all(source[name] == back[name] for name in source if name not in scale_2)


def test_scales_that_the_target_has_no_room_for_are_kept_where_it_takes_others(visq, made, tmp_path):
    for target in ("autoawq", "gptq"):
        line = refused(visq, made / "modelopt" / "w4a16", "--to", target, "--out", tmp_path / "out")
        assert re.search(r"'language_model\S+_proj' has a scale of 0\.\d+, which F16 does not hold exactly", line)
        assert f"visq quantize --layout {target}" in line
    said = visq("convert", made / "modelopt" / "w4a16", "--to", "compressed-tensors", "--out", tmp_path / "out")
    assert "scales are written as F32" in said.stderr
    assert tensors(tmp_path / "out")[UP + ".weight_scale"][0] == "F32"
    visq("convert", tmp_path / "out", "--to", "modelopt", "--out", tmp_path / "back")
    assert tensors(tmp_path / "back") == tensors(made / "modelopt" / "w4a16")


def test_one_scale_a_row_goes_into_gptq_when_f16_holds_it(visq, demo, made, tmp_path):
    visq("quantize", demo / "model", "-f", "int8_wo", "--layout", "gptq", "-o", tmp_path / "gptq")
    for target in ("compressed-tensors", "modelopt"):
        visq("convert", tmp_path / "gptq", "--to", target, "--out", tmp_path / target)
        visq("convert", tmp_path / target, "--to", "gptq", "--out", tmp_path / f"{target}-back")
        assert tensors(tmp_path / f"{target}-back") == tensors(tmp_path / "gptq")
    line = refused(visq, made / "modelopt" / "int8_wo", "--to", "autoawq", "--out", tmp_path / "out")
    assert "no place for" in line and "INT8" in line


def test_what_has_no_place_is_refused_before_anything_is_written(visq, demo, made, tmp_path):
    out = tmp_path / "out"
    line = refused(visq, made / "w4a16_asym", "--to", "modelopt", "--out", out)
    assert "INT4 with zero points" in line and "these have: compressed-tensors, autoawq, gptq" in line
    line = refused(visq, made / "w4a16", "--to", "awq", "--out", out)
    assert "choose one of modelopt, hf-fp8, compressed-tensors, " in line and line.endswith("gguf, tensorrt-llm")
    line = refused(visq, demo / "model", "--to", "gptq", "--out", out)
    assert "is not quantized" in line and "visq quantize --layout gptq" in line
    assert "no such" in refused(visq, tmp_path / "absent", "--to", "gptq", "--out", out).lower()


def test_an_output_that_exists_is_left_alone(visq, made, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    result = visq("convert", made / "w4a16", "--to", "gptq", "--out", tmp_path / "out", check=False)
    assert result.returncode == 2 and "--force" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["config.json"]
    visq("convert", made / "w4a16", "--to", "gptq", "--out", tmp_path / "out", "--force")
    assert len(tensors(tmp_path / "out")) > 35


def test_a_kv_cache_goes_along_or_is_dropped(visq, demo, tmp_path):
    visq("quantize", demo / "model", "-f", "int4_awq_lite", "--layout", "compressed-tensors", "--calib", demo / "calibration.jsonl", "--samples",
         8, "-o", tmp_path / "made")  # fmt: skip
    visq("convert", tmp_path / "made", "--to", "modelopt", "--out", tmp_path / "modelopt")
    visq("convert", tmp_path / "modelopt", "--to", "compressed-tensors", "--out", tmp_path / "back")
    assert tensors(tmp_path / "back") == tensors(tmp_path / "made")
    assert visq.json("inspect", tmp_path / "modelopt")["quantization"]["kv_cache"] == "fp8"
    line = refused(visq, tmp_path / "made", "--to", "autoawq", "--out", tmp_path / "out")
    assert "KV cache of fp8" in line and "--drop-kv-cache" in line
    visq("convert", tmp_path / "made", "--to", "autoawq", "--drop-kv-cache", "--out", tmp_path / "awq")
    found = tensors(tmp_path / "awq")
    assert not [name for name in found if re.search(r"[kv]_scale$", name)]
    visq.check([tmp_path / "awq"])
    assert visq.json("inspect", tmp_path / "awq")["quantization"]["kv_cache"] == "none"


def test_factors_of_the_input_are_refused(visq, converted, tmp_path):
    folder = shutil.copytree(converted / "modelopt", tmp_path / "model")
    module = "language_model.model.layers.0.mlp.down_proj"
    damaged(folder, f"{module}.pre_quant_scale", lambda data: struct.pack("<H", 0x4000) + data[2:])
    line = refused(visq, folder, "--to", "gptq", "--out", tmp_path / "out")
    assert f"'{module}.pre_quant_scale'" in line and "quantize the original" in line


def test_linears_that_fill_no_words_are_refused_before_a_weight_is_read(visq, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    model = toy.save(tmp_path / "model", toy.make_llava("llama", "clip"), "A")
    config = json.loads((model / "config.json").read_text())
    rename(model)
    folder = tmp_path / "model" / "model.safetensors"
    data = folder.read_bytes()
    name = b"language_model.model.layers.0.mlp.up_proj.weight"
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for leaf in ("up_proj", "gate_proj"):  # [256, 128] → [252, 130]: no multiple of eight rows, no whole blocks
        header[f"language_model.model.layers.0.mlp.{leaf}.weight"]["shape"] = [1024, 32]
    assert name in data and config
    text = json.dumps(header).encode()
    folder.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    result = visq("quantize", model, "-f", "w4a16", "--layout", "autoawq", "-o", tmp_path / "out", check=False)
    assert result.returncode == 2 and "32 columns, not a multiple of the block of 128" in result.stderr
    for shape, message in (([8, 4096], None), ([4, 8192], "has 4 rows, and AutoAWQ packs eight of them into a word; leave it out with --skip")):
        for leaf in ("up_proj", "gate_proj"):
            header[f"language_model.model.layers.0.mlp.{leaf}.weight"]["shape"] = shape
        text = json.dumps(header).encode()
        folder.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        result = visq("quantize", model, "-f", "w4a16", "--layout", "autoawq", "-o", tmp_path / "out", "--dry-run", check=False)
        assert (result.returncode == 0) if message is None else (message in result.stderr), result.stderr
        assert not (tmp_path / "out").exists()


def test_what_a_recipe_leaves_out_is_left_out_by_every_engine(visq, demo, tmp_path):
    skipped = ["--skip", "*.layers.1.self_attn.*", "--skip", "*.layers.2.mlp.*"]
    for layout in ("autoawq", "gptq"):
        out = tmp_path / layout
        visq("quantize", demo / "model", "-f", "w4a16", "--layout", layout, *skipped, "-o", out)
        visq.check([out], "--source", demo / "model")
        source = {SUFFIX.sub("", name) for name, value in tensors(demo / "model").items() if name.endswith(".weight") and len(value[1]) == 2}
        quantized = {name.removesuffix(".qweight") for name in tensors(out) if name.endswith(".qweight")}
        assert len(quantized) == 35 - 4 - 3
        linears = {module for module in source if "embed" not in module.split(".")[-1]}
        assert not engine_rules.wrongly_judged(out, linears, quantized)
        # SGLang asks for fused linears by the name that it gives them itself.
        fused = {re.sub(r"\b(q|k|v)_proj$", "qkv_proj", re.sub(r"\b(gate|up)_proj$", "gate_up_proj", module)): module in quantized
                 for module in linears if LINEAR.search(module) and not TOWER.search(module)}  # fmt: skip
        assert not engine_rules.wrongly_judged(out, set(fused), {module for module, is_quantized in fused.items() if is_quantized})
    visq("convert", tmp_path / "autoawq", "--to", "gptq", "--out", tmp_path / "converted")
    assert digest(tmp_path / "converted").items() - digest(tmp_path / "gptq").items() == {
        ("visq_report.json", digest(tmp_path / "converted")["visq_report.json"])}  # fmt: skip


@pytest.mark.parametrize("kind", test_families.KINDS)
def test_every_family_goes_round(visq, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    make, *arguments = test_families.KINDS[kind]
    made = make(*arguments)
    model = toy.save(tmp_path / "model", made, "A") if isinstance(made, tuple) else made.save(tmp_path / "model")
    folder = tmp_path / "autoawq"
    visq("quantize", model, "-f", "w4a16", "--layout", "autoawq", "-o", folder)
    for layout in (*LAYOUTS[1:], "autoawq"):
        last, folder = folder, tmp_path / (layout if layout != "autoawq" else "back")
        visq("convert", last, "--to", layout, "--out", folder)
    assert digest(tmp_path / "back") == digest(tmp_path / "autoawq")
    visq.check([tmp_path / layout for layout in LAYOUTS], "--source", model)
    level = "llm." if (model / "llm").exists() else ""
    for layout in ("autoawq", "gptq"):
        output = tensors(tmp_path / layout)
        linears = {SUFFIX.sub("", name).removeprefix(level) for name, (_, shape, _) in output.items()
                   if SUFFIX.search(name) and len(shape) == 2 and "embed" not in name.split(".")[-2] and name.startswith(level)}  # fmt: skip
        quantized = {name.removesuffix(".qweight").removeprefix(level) for name in output if name.endswith(".qweight")}
        assert quantized == {module for module in linears if LINEAR.search(module) and not TOWER.search(module)}
        assert not engine_rules.wrongly_judged(text_folder(tmp_path / layout), linears, quantized)


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl_moe", "nvila"])
def test_an_unknown_architecture_gives_the_tensors_of_the_known_one(visq, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WIDE", True)
    make, *arguments = test_families.KINDS[kind]
    made = make(*arguments)
    model = toy.save(tmp_path / "model", made, "A") if isinstance(made, tuple) else made.save(tmp_path / "model")
    visq("quantize", model, "-f", "w4a16", "--layout", "autoawq", "-o", tmp_path / "awq")
    visq("convert", tmp_path / "awq", "--to", "gptq", "--out", tmp_path / "known")
    rename(tmp_path / "awq")
    visq("convert", tmp_path / "awq", "--to", "gptq", "--out", tmp_path / "unknown")
    visq("convert", tmp_path / "unknown", "--to", "autoawq", "--out", tmp_path / "back")
    assert tensors(tmp_path / "unknown") == tensors(tmp_path / "known")
    assert tensors(tmp_path / "back") == tensors(tmp_path / "awq")
    visq.check([tmp_path / "unknown", tmp_path / "back"])


def test_threads_do_not_change_the_bytes(visq, made, converted, tmp_path):
    for threads in (1, 3):
        visq("convert", made / "w4a16", "--to", "gptq", "--out", tmp_path / str(threads), "--threads", threads)
        assert digest(tmp_path / str(threads)) == digest(converted / "gptq")


# Checkpoints of other tools.


def foreign(folder, target, change, file=None):
    """A copy with another quantization_config, or one in a file beside config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    quantization = {key: value for key, value in config.pop("quantization_config").items() if key != "producer"}
    quantization = {key: value for key, value in {**quantization, **change}.items() if value is not None}
    (target / "visq_report.json").unlink()
    if file is None:
        config["quantization_config"] = quantization
    else:
        (target / file).write_text(json.dumps(quantization))
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_configurations_of_other_tools_are_read(visq, demo, made, converted, tmp_path):
    older = {"bits": None, "w_bit": 4, "group_size": None, "q_group_size": 128, "version": "GEMM", "quant_method": None,
             "modules_to_not_convert": None}  # fmt: skip
    awq = foreign(made / "w4a16_asym", tmp_path / "awq", older, "quant_config.json")
    gptq = foreign(converted / "gptq", tmp_path / "gptq", {"quant_method": None, "checkpoint_format": None, "dynamic": None},
                   "quantize_config.json")  # fmt: skip
    for folder, layout in ((awq, "autoawq"), (gptq, "gptq")):
        found = visq.json("inspect", folder)["quantization"]
        assert (found["layout"], found["linears"]) == (layout, 35)
    visq("convert", awq, "--to", "compressed-tensors", "--out", tmp_path / "from-awq")
    visq("convert", gptq, "--to", "autoawq", "--out", tmp_path / "from-gptq")
    assert tensors(tmp_path / "from-awq") == tensors(converted / "asym-compressed-tensors")
    assert tensors(tmp_path / "from-gptq") == tensors(converted / "autoawq")
    names = {path.name for path in (tmp_path / "from-gptq").iterdir()}
    assert not names & {"quantize_config.json", "quant_config.json", "visq_report.json"}
    rows = visq.json("eval", awq, made / "w4a16_asym", gptq, converted / "gptq", "--against", demo / "model", "--data",
                     demo / "questions.jsonl", "--samples", 6)  # fmt: skip
    kl = [row["mean_kl"] for row in rows[1:]]
    assert kl[0] == kl[1] != kl[2] == kl[3]


@pytest.mark.parametrize("layout, change, message", [
    ("autoawq", {"bits": 3}, "bits is 3"),
    ("autoawq", {"version": "gemv"}, "version is 'gemv'"),
    ("autoawq", {"zero_point": None}, "zero_point"),
    ("autoawq", {"group_size": 0}, "group size is 0"),
    ("autoawq", {"group_size": 64}, ".scales"),
    ("gptq", {"bits": 3}, "3 bits"),
    ("gptq", {"group_size": 0}, "group size is 0"),
    ("gptq", {"checkpoint_format": "gptq_v2"}, ".qzeros' has zero points"),
    ("gptq", {"lm_head": True}, "lm_head is quantized")])  # fmt: skip
def test_configurations_that_say_something_else_are_refused(visq, converted, tmp_path, layout, change, message):
    folder = foreign(converted / layout, tmp_path / "model", change)
    line = refused(visq, folder, "--to", layout, "--out", tmp_path / "out")
    assert message in line and str(folder) in line


@pytest.mark.parametrize("change, message", [
    (lambda data: struct.pack("<i", 99) + data[4:], "groups that are not among the"),
    (lambda data: struct.pack("<i", -1) + data[4:], "groups that are not among the"),
    (lambda data: data[-4:] + data[4:], "groups that are not of 128 columns")])  # fmt: skip
def test_columns_in_another_order_are_refused(visq, converted, tmp_path, change, message):
    folder = shutil.copytree(converted / "gptq", tmp_path / "model")
    damaged(folder, UP + ".g_idx", change)
    line = refused(visq, folder, "--to", "autoawq", "--out", tmp_path / "out")
    assert message in line and f"'{UP}.g_idx'" in line
    assert visq("generate", folder, "Hello", check=False).returncode == 2
