"""Calibration on disk: `visq calibrate`, `visq quantize --stats`, `visq stats merge`."""
import json
import shutil
import signal
import subprocess
import time

import numpy
import pytest

import test_families
from test_bad_input import header_of, write
from test_quantize import digest, tensors

FORMATS = ["fp8", "int8_sq", "int4_awq", "nvfp4", "int4_gptq"]
SAMPLES = 48


@pytest.fixture(scope="module")
def samples(demo, tmp_path_factory):
    """The samples of one calibration, and the same in two halves; pictures lie beside them."""
    folder = tmp_path_factory.mktemp("samples")
    lines = (demo / "calibration.jsonl").read_text().splitlines(keepends=True)[:SAMPLES]
    for line in lines:
        for message in json.loads(line)["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else []:
                if part["type"] == "image":
                    (folder / part["image"]).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(demo / part["image"], folder / part["image"])
    (folder / "all.jsonl").write_text("".join(lines))
    (folder / "first.jsonl").write_text("".join(lines[: SAMPLES // 2]))
    (folder / "second.jsonl").write_text("".join(lines[SAMPLES // 2 :]))
    return folder


@pytest.fixture(scope="module")
def stats(visq, demo, samples, tmp_path_factory):
    """Statistics of all samples, of the halves, of the halves' sum, and without Gram matrices."""
    out = tmp_path_factory.mktemp("stats")
    for name in ("all", "first", "second"):
        visq("calibrate", demo / "model", "--calib", samples / f"{name}.jsonl", "--out", out / name)
    visq("calibrate", demo / "model", "--calib", samples / "all.jsonl", "--out", out / "small", "--no-gram")
    visq("stats", "merge", out / "first", out / "second", "--out", out / "sum")
    return out


def manifest(path):
    return json.loads((path / "statistics.json").read_text())


def digest_but_report(path):
    """Bytes of all files but the report; the report without the one key that says where statistics came from; this key's value."""
    files = digest(path)
    del files["visq_report.json"]
    report = json.loads((path / "visq_report.json").read_text())
    source = report["calibration"].pop("statistics", None)
    return files, report, source


def test_every_format_has_the_bytes_of_a_run_with_samples(visq, demo, samples, stats, tmp_path):
    formats = ",".join(FORMATS)
    visq("quantize", demo / "model", "-f", formats, "--calib", samples / "all.jsonl", "-o", tmp_path / "calib")
    result = visq("quantize", demo / "model", "-f", formats, "--stats", stats / "all", "-o", tmp_path / "stats")
    assert f"{SAMPLES} samples (statistics from {stats / 'all'}): " in result.stdout
    for format in FORMATS:
        expected, report, source = digest_but_report(tmp_path / "calib" / format)
        assert source is None
        assert digest_but_report(tmp_path / "stats" / format) == (expected, report, str(stats / "all")), format


@pytest.mark.parametrize("format, kv_cache", [("fp8", "fp8"), ("nvfp4_max", "nvfp4_rotate"), ("int8_sq", "fp8")])
def test_formats_without_gram_matrices_need_none(visq, demo, stats, tmp_path, format, kv_cache):
    for name in ("all", "small"):
        visq("quantize", demo / "model", "-f", format, "--stats", stats / name, "--kv-cache", kv_cache, "-o", tmp_path / name)
    assert digest_but_report(tmp_path / "all")[:2] == digest_but_report(tmp_path / "small")[:2]


def test_small_statistics_lack_gram_matrices_alone(stats):
    for layer in range(len(manifest(stats / "all")["layers"])):
        name = f"layer-{layer:05}.safetensors"
        whole, small = layer_tensors(stats / "all" / name), layer_tensors(stats / "small" / name)
        assert any(tensor.endswith(".gram") for tensor in whole)
        assert small == {tensor: value for tensor, value in whole.items() if not tensor.endswith(".gram")}


def test_statistics_do_not_depend_on_the_number_of_threads(visq, demo, samples, stats, tmp_path):
    visq("calibrate", demo / "model", "--calib", samples / "all.jsonl", "--out", tmp_path / "one", "--threads", 1)
    assert digest(tmp_path / "one") == digest(stats / "all")


def values(data, dtype):
    return numpy.frombuffer(data, {"F32": "<f4", "F64": "<f8", "I64": "<i8"}[dtype]).astype(float)


def test_a_sum_is_what_all_samples_give(stats):
    total, whole = manifest(stats / "sum"), manifest(stats / "all")
    # What is measured on a few samples is not a sum: it is the mean of what the parts say.
    parts = [manifest(stats / half)["modality_sensitivity"] for half in ("first", "second")]
    mean = total.pop("modality_sensitivity")
    assert set(mean) == set(whole.pop("modality_sensitivity")) == {"text", "image"}
    assert all(numpy.isclose(mean[kind], (parts[0][kind] + parts[1][kind]) / 2, rtol=1e-6) for kind in mean), (mean, parts)
    assert total == whole and total["samples"] == SAMPLES and total["image_tokens"] > 0 and total["text_tokens"] > 0
    for layer in range(len(whole["layers"])):
        name = f"layer-{layer:05}.safetensors"
        a, b = layer_tensors(stats / "sum" / name), layer_tensors(stats / "all" / name)
        assert a.keys() == b.keys()
        for tensor, (dtype, shape, data) in a.items():
            assert (dtype, shape) == b[tensor][:2], tensor
            left, right = values(data, dtype), values(b[tensor][2], dtype)
            if not tensor.endswith((".gram", ".sum", ".abs_sum")):
                # How rows are cut into chunks moves the activations themselves by a few units in the last place.
                same = numpy.array_equal(left, right) if dtype == "I64" else numpy.allclose(left, right, rtol=1e-3, atol=1e-4)
                assert same, tensor
                continue
            assert numpy.abs(left - right).max() <= 1e-3 * numpy.abs(right).max(), tensor


def layer_tensors(path):
    header, body = header_of(path)
    header.pop("__metadata__", None)
    return {name: (info["dtype"], info["shape"], body[slice(*info["data_offsets"])]) for name, info in header.items()}


@pytest.mark.parametrize("format", ["int4_awq", "nvfp4"])
def test_a_sum_quantizes_as_well(visq, demo, stats, tmp_path, format):
    for name in ("sum", "all"):
        visq("quantize", demo / "model", "-f", format, "--stats", stats / name, "-o", tmp_path / name)
        report = visq.json("check", tmp_path / name, "--source", demo / "model")
        assert report["passed"], [rule for rule in report["rules"] if rule["violations"]]
    assert tensors(tmp_path / "sum").keys() == tensors(tmp_path / "all").keys()
    rows = visq.json("eval", tmp_path / "sum", tmp_path / "all", "--against", demo / "model", "--data", demo / "questions.jsonl",
                     "--samples", 40)
    _, of_sum, of_all = rows
    assert of_sum["mean_kl"] == pytest.approx(of_all["mean_kl"], rel=0.5)


def test_sums_do_not_depend_on_the_order(visq, stats, tmp_path):
    visq("stats", "merge", stats / "second", stats / "first", "--out", tmp_path / "sum")
    assert digest(tmp_path / "sum") == digest(stats / "sum")


def test_summaries_as_json(visq, demo, samples, stats, tmp_path):
    result = visq.json("calibrate", demo / "model", "--calib", samples / "all.jsonl", "--samples", 8, "--out", tmp_path / "stats")
    assert result["samples"] == 8 and result["layers"] == 5 and result["gram"]
    assert result["bytes"] == sum(f.stat().st_size for f in (tmp_path / "stats").iterdir())
    result = visq.json("stats", "merge", tmp_path / "stats", stats / "all", "--out", tmp_path / "sum")
    assert result["samples"] == SAMPLES + 8
    result = visq.json("quantize", demo / "model", "-f", "fp8", "--stats", tmp_path / "sum", "-o", tmp_path / "out")
    assert result["calibration"]["statistics"] == str(tmp_path / "sum")
    assert result["calibration"]["samples"] == SAMPLES + 8


def one_line(visq, tmp_path, *arguments, out="out"):
    result = visq(*arguments, "--out", tmp_path / out, check=False)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))
    return lines[0]


def edit_manifest(path, **changes):
    content = manifest(path) | changes
    (path / "statistics.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def edit_tensor(path, name, dtype=None, shape=None, data=None):
    header, body = header_of(path)
    header.pop("__metadata__", None)
    begin, end = header[name]["data_offsets"]
    if data is not None:
        body = body[:begin] + data + body[begin + len(data) :]
    if shape is not None:
        header[name]["shape"] = shape
    if dtype is not None:
        header[name]["dtype"] = dtype
    write(path, header, body)


LAYER = "layer-00002.safetensors"
DAMAGE = {
    "no manifest": (lambda d: (d / "statistics.json").unlink(), "has no statistics.json"),
    "not JSON": (lambda d: (d / "statistics.json").write_text("{"), "statistics.json: not valid JSON"),
    "another version": (lambda d: edit_manifest(d, statistics_version=1), "statistics of version 1"),
    "no version": (lambda d: edit_manifest(d, statistics_version=None), "'statistics_version' is missing"),
    "unknown key": (lambda d: edit_manifest(d, colour="red"), "unknown key 'colour'"),
    "wrong type": (lambda d: edit_manifest(d, samples="many"), "'samples' has an unexpected type"),
    "negative number": (lambda d: edit_manifest(d, text_tokens=-1), "'text_tokens' is -1"),
    "too few layers": (lambda d: edit_manifest(d, layers=manifest(d)["layers"][:-1]), "its 4 'layers' are not the 5 of the model"),
    "no layers": (lambda d: edit_manifest(d, layers=[]), "'layers' has 0 entries"),
    "odd layer": (lambda d: edit_manifest(d, layers=[{"attn_in": 3}]), "'layers' has an entry that is no layer's"),
    "another model": (lambda d: edit_manifest(d, fingerprint="0" * 40), "statistics of another model: of 'model' (llava, 00000000)"),
    "merged adapter": (lambda d: edit_manifest(d, merged_adapter="vision"), "the adapter 'vision' in the weights, but this run has no adapter"),
    "missing layer": (lambda d: (d / LAYER).unlink(), f"{LAYER}: no such file"),
    "truncated": (lambda d: (d / LAYER).write_bytes((d / LAYER).read_bytes()[:-100]), f"{LAYER}: tensor"),
    "wrong shape": (lambda d: edit_tensor(d / LAYER, "attn_in.text.gram", shape=[128, 512]),
                    f"{LAYER}: tensor 'attn_in.text.gram' is F32 [128, 512] and not F32 [256, 256]"),
    "wrong dtype": (lambda d: edit_tensor(d / LAYER, "keys.min", dtype="I32"), f"{LAYER}: tensor 'keys.min' is I32"),
    "NaN": (lambda d: edit_tensor(d / LAYER, "mlp_out.image.gram", data=b"\0\0\xc0\x7f"),
            f"{LAYER}: tensor 'mlp_out.image.gram' holds a NaN or an infinity"),
    "infinity": (lambda d: edit_tensor(d / LAYER, "values.max", data=b"\0\0\x80\x7f"),
                 f"{LAYER}: tensor 'values.max' holds a NaN or an infinity"),
    "tokens": (lambda d: edit_tensor(d / LAYER, "attn_out.text.tokens", data=b"\xff" * 8),
               f"{LAYER}: tensor 'attn_out.text.tokens' is -1"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_statistics_get_one_line(visq, demo, stats, tmp_path, case):
    damage, expected = DAMAGE[case]
    shutil.copytree(stats / "all", tmp_path / "stats")
    damage(tmp_path / "stats")
    assert expected in one_line(visq, tmp_path, "quantize", demo / "model", "-f", "int4_awq", "--stats", tmp_path / "stats")


def test_statistics_of_other_weights_are_refused(visq, demo, stats, tmp_path):
    shutil.copytree(demo / "model", tmp_path / "tuned")
    for file in (tmp_path / "tuned").glob("*.safetensors"):
        header, body = header_of(file)
        name = next(n for n in header if n.endswith("layers.1.mlp.up_proj.weight"))
        begin, end = header[name]["data_offsets"]
        write(file, header, body[:begin] + bytes(end - begin) + body[end:])
    line = one_line(visq, tmp_path, "quantize", tmp_path / "tuned", "-f", "fp8", "--stats", stats / "all")
    assert "statistics of another model: of 'model' (llava, " in line and "not of 'tuned' (llava, " in line


@pytest.mark.parametrize("format", ["int4_awq", "int4_gptq", "nvfp4_local_hessian"])
def test_what_needs_gram_matrices_says_so(visq, demo, stats, tmp_path, format):
    line = one_line(visq, tmp_path, "quantize", demo / "model", "-f", f"fp8,{format}", "--stats", stats / "small")
    assert "--no-gram" in line and f"--format {format}" in line


@pytest.mark.parametrize("option", [["--calib", "x.jsonl"], ["--samples", "3"], ["--seq-len", "64"], ["--text-only"]])
def test_options_of_samples_do_not_go_with_statistics(visq, demo, stats, tmp_path, option):
    line = one_line(visq, tmp_path, "quantize", demo / "model", "-f", "fp8", "--stats", stats / "all", *option)
    assert "--stats" in line and option[0] in line and "excludes" in line


def test_bad_options_get_one_line(visq, demo, samples, stats, tmp_path):
    model = demo / "model"
    assert "nowhere: no such directory" in one_line(visq, tmp_path, "quantize", model, "-f", "fp8", "--stats", tmp_path / "nowhere")
    assert "--calib is required" in one_line(visq, tmp_path, "calibrate", model)
    assert "nowhere.jsonl" in one_line(visq, tmp_path, "calibrate", model, "--calib", tmp_path / "nowhere.jsonl")
    assert "holds no images" in one_line(visq, tmp_path, "calibrate", model, "--calib", texts(tmp_path))
    assert "two directories" in one_line(visq, tmp_path, "stats", "merge", stats / "all")
    assert "named twice" in one_line(visq, tmp_path, "stats", "merge", stats / "all", stats / "first", stats / "all")
    assert "no Gram matrices" in one_line(visq, tmp_path, "stats", "merge", stats / "all", stats / "small")
    assert "no such directory" in one_line(visq, tmp_path, "stats", "merge", stats / "all", tmp_path / "nowhere")
    result = visq("stats", check=False)
    assert result.returncode == 2 and "subcommand" in result.stderr


def texts(folder):
    line = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]}
    (folder / "texts.jsonl").write_text(json.dumps(line) + "\n")
    return folder / "texts.jsonl"


def test_what_exists_is_replaced_only_when_told(visq, demo, samples, stats, tmp_path):
    shutil.copytree(stats / "first", tmp_path / "stats")
    before = digest(tmp_path / "stats")
    merge = ["stats", "merge", tmp_path / "stats", stats / "second"]
    assert "--force" in one_line(visq, tmp_path, *merge, out="stats")
    assert digest(tmp_path / "stats") == before
    visq(*merge, "--out", tmp_path / "stats", "--force")
    assert digest(tmp_path / "stats") == digest(stats / "sum")
    shutil.copytree(demo / "model", tmp_path / "model")
    line = one_line(visq, tmp_path, *merge, "--force", out="model")
    assert "does not look like statistics" in line and digest(tmp_path / "model") == digest(demo / "model")


def test_interrupted_calibration_leaves_nothing(visq, demo, tmp_path):
    arguments = ["calibrate", demo / "model", "--calib", demo / "calibration.jsonl", "--out", tmp_path / "stats"]
    process = subprocess.Popen([visq.path, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "stats.partial").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "nothing was written" in error
    assert not list(tmp_path.iterdir())


def test_plans_take_statistics_for_data(visq, demo, stats, tmp_path):
    text = visq("quantize", demo / "model", "-f", "fp8", "--stats", stats / "all", "--dry-run").stdout
    assert "KV cache     fp8" in text


@pytest.fixture
def toy_model(tmp_path, monkeypatch):
    """A random model of some kind, and samples for it."""

    def make(kind):
        monkeypatch.setattr(test_families.toy, "WIDE", True)
        function, *arguments = test_families.KINDS[kind]
        made = function(*arguments)
        folder = tmp_path / "model"
        model = test_families.toy.save(folder, made, "A") if isinstance(made, tuple) else made.save(folder)
        return model, test_families.write_data(tmp_path)

    return make


MERGE = ["--merge-vision-adapter"]


@pytest.mark.parametrize("kind, options", [("qwen3_vl_moe", []), ("llama4", []), ("mllama", []), ("phi4mm", MERGE), ("vila1.5", [])])
def test_families_have_the_bytes_of_a_run_with_samples(visq, toy_model, tmp_path, kind, options):
    model, data = toy_model(kind)
    quantize = ["quantize", model, "-f", "nvfp4,int4_awq", *options]
    visq(*quantize, "--calib", data, "--seq-len", 8192, "-o", tmp_path / "calib")
    visq("calibrate", model, "--calib", data, "--seq-len", 8192, *options, "-o", tmp_path / "stats")
    visq(*quantize, "--stats", tmp_path / "stats", "-o", tmp_path / "stats_out")
    for format in ("nvfp4", "int4_awq"):
        assert digest_but_report(tmp_path / "calib" / format)[:2] == digest_but_report(tmp_path / "stats_out" / format)[:2]
    if options:
        line = one_line(visq, tmp_path, "quantize", model, "-f", "nvfp4", "--stats", tmp_path / "stats")
        assert "--merge-vision-adapter both times or never" in line


def test_layers_that_read_images_need_them_in_one_of_the_parts(visq, toy_model, tmp_path):
    model, data = toy_model("mllama")
    visq("calibrate", model, "--calib", texts(tmp_path), "--text-only", "-o", tmp_path / "texts")
    visq("calibrate", model, "--calib", data, "--seq-len", 8192, "-o", tmp_path / "images")
    line = one_line(visq, tmp_path, "quantize", model, "-f", "fp8", "--stats", tmp_path / "texts")
    assert "needs statistics of layer 'language_model.model.layers.1'" in line
    visq("stats", "merge", tmp_path / "texts", tmp_path / "images", "-o", tmp_path / "sum")
    visq("quantize", model, "-f", "int4_awq", "--stats", tmp_path / "sum", "-o", tmp_path / "quantized")
    assert visq.json("check", tmp_path / "quantized", "--source", model)["passed"]
    total, images = manifest(tmp_path / "sum"), manifest(tmp_path / "images")
    assert total["image_tokens"] == images["image_tokens"] and total["text_tokens"] > images["text_tokens"]


def test_experts_count_together_what_they_were_sent(visq, toy_model, tmp_path):
    """The few samples twice: experts that had borrowed in each half may have enough in the sum."""
    model, data = toy_model("qwen3_vl_moe")
    for name in ("one", "two"):
        visq("calibrate", model, "--calib", data, "--seq-len", 8192, "-o", tmp_path / name)
    visq("stats", "merge", tmp_path / "one", tmp_path / "two", "-o", tmp_path / "sum")
    for layer, shape in enumerate(manifest(tmp_path / "sum")["layers"]):
        part, total = (layer_tensors(tmp_path / name / f"layer-{layer:05}.safetensors") for name in ("one", "sum"))
        for expert in range(shape.get("experts", 0)):
            tokens = [sum(values(tensors[f"experts.{expert}.own.{kind}.tokens"][2], "I64")[0] for kind in ("text", "image"))
                      for tensors in (part, total)]
            assert tokens[1] == 2 * tokens[0]
            assert (f"experts.{expert}.lent.text.tokens" in total) == (tokens[1] < 64)
