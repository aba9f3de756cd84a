"""vLLM's own loader on a CPU: chooses the quantization config, builds the model and loads a checkpoint's tensors into it.

vLLM's own code: ModelConfig, its quantization configs, model classes, layers, kernel selection and weight loaders, with tensor
parallelism 1. Stand-ins: the GPU (a platform that says it is an NVIDIA GPU of the capability asked for and holds its tensors
on the CPU), compiled kernels, and packages that serving needs. Nothing is computed: weights are not post-processed for kernels.
"""

import os
import sys
import tempfile

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
import torch
import torch._dynamo  # before triton has a stand-in
import torch._inductor.runtime.triton_heuristics  # noqa: F401

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import loading  # noqa: E402
import stand_ins  # noqa: E402

ABSENT = """aiohttp anthropic av blake3 cpuinfo cv2 decord depyf diskcache fastapi flashinfer gguf google grpc ijson lark
librosa llguidance mcp mistral_common numba openai openai_harmony outlines partial_json_parser prometheus_client pybase64 ray
sentencepiece setproctitle sniffio soundfile starlette tiktoken triton tvm_ffi uvicorn uvloop watchfiles xgrammar""".split()
COMPILED = ["vllm." + name for name in ("_C", "_C_stable_libtorch", "_flashmla_C", "_moe_C", "vllm_flash_attn")]

operators = stand_ins.Operators()
torch.ops._C = torch.ops._moe_C = operators
stand_ins.install(ABSENT, COMPILED)

import vllm.platforms  # noqa: E402
from vllm.platforms.interface import DeviceCapability, Platform, PlatformEnum  # noqa: E402


class Gpu(Platform):
    _enum = PlatformEnum.CUDA
    device_name = "cuda"
    device_type = "cpu"  # where tensors are
    dispatch_key = "CPU"
    capability = DeviceCapability(10, 0)
    supported_quantization: list[str] = []  # empty: vLLM asks the methods themselves

    @classmethod
    def get_device_capability(cls, device_id=0):
        return cls.capability

    @classmethod
    def get_attn_backend_cls(cls, *_, **__):
        return "vllm.v1.attention.backends.cpu_attn.CPUAttentionBackend"

    @property
    def supported_dtypes(self):
        return [torch.bfloat16, torch.float16, torch.float32]


vllm.platforms._current_platform = Gpu()
import vllm._custom_ops  # noqa: E402,F401

operators.imported = True
from vllm.config import LoadConfig, ModelConfig, VllmConfig, set_current_vllm_config  # noqa: E402
from vllm.distributed import parallel_state  # noqa: E402
from vllm.model_executor.layers.attention import Attention  # noqa: E402
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader  # noqa: E402
from vllm.model_executor.model_loader.utils import initialize_model  # noqa: E402
from vllm.model_executor.models import registry  # noqa: E402
from vllm.utils.torch_utils import set_default_torch_dtype  # noqa: E402

MEETING = tempfile.TemporaryDirectory()  # where the only process of its group meets itself

torch.cuda.Stream = torch.cuda.Event = stand_ins.Anything  # experts make one, for work beside the router's
registry._run_in_subprocess = lambda inspect: inspect()  # a subprocess would not have the stand-ins


def load(question, watch):
    Gpu.capability = DeviceCapability(question["capability"] // 10, question["capability"] % 10)
    model_config = ModelConfig(model=question["directory"], dtype="bfloat16", enforce_eager=True, max_model_len=512)
    config = VllmConfig(model_config=model_config, load_config=LoadConfig(load_format="safetensors"))
    with set_current_vllm_config(config), set_default_torch_dtype(torch.bfloat16):
        if not torch.distributed.is_initialized():
            parallel_state.init_distributed_environment(1, 0, f"file://{MEETING.name}/ranks", 0, "gloo")
        parallel_state.destroy_model_parallel()
        parallel_state.initialize_model_parallel()  # anew: experts ask for a group that other models have not
        model = initialize_model(config)
        loader = DefaultModelLoader(config.load_config)
        loader.get_all_weights = lambda *arguments, own=loader.get_all_weights: watch.watched(own(*arguments))
        with watch:
            loader.load_weights(model, model_config)
    return config.quant_config, model, lambda module: isinstance(module, Attention)


if __name__ == "__main__":
    loading.serve(load)
