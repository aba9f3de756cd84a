"""SGLang's own loader on a CPU: chooses the quantization config, builds the model and loads a checkpoint's tensors into it.

SGLang's own code: ModelConfig, its quantization configs, model classes, layers and weight loaders, with tensor parallelism 1.
Stand-ins: compiled kernels, the answers to questions for the GPU, and packages that serving needs. Nothing is computed: weights
are not post-processed for kernels.
"""

import logging
import os
import socket
import sys
import types
import warnings

import torch
import torch._dynamo  # before triton has a stand-in
import torch._inductor.runtime.triton_heuristics  # noqa: F401

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import loading  # noqa: E402
import stand_ins  # noqa: E402

ABSENT = """IPython aiohttp anthropic av blobfile cuda cutlass cv2 datasets decord deep_gemm flash_attn flashinfer gguf humming
interegular kernels librosa llguidance mistral_common modelscope numba nvidia openai openai_harmony opentelemetry outlines
partial_json_parser prometheus_client pybase64 quack sentencepiece setproctitle sgl_kernel smg_grpc_servicer sniffio soundfile
fastapi starlette tiktoken torch_memory_saver torchao torchcodec traitlets triton tvm_ffi uvicorn uvloop watchfiles websockets
xgrammar xxhash""".split()
stand_ins.install(ABSENT)


def scalar_types():
    """What kernels call number formats; vLLM's file of it is a copy of sgl_kernel's."""
    import importlib.util
    found = importlib.util.find_spec("vllm").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("sgl_kernel.scalar_type", os.path.join(found, "scalar_type.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sys.modules["sgl_kernel.scalar_type"] = scalar_types()

# SGLang asks torch what GPU there is, when it is imported and later. Tensors stay on the CPU.
capability = [10, 0]
torch.version.cuda = "12.8"
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_capability = lambda device=None: tuple(capability)
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_properties = lambda device=None: types.SimpleNamespace(
    name="NVIDIA", major=capability[0], minor=capability[1], multi_processor_count=132, total_memory=80 << 30
)
torch.cuda.get_device_name = lambda device=None: "NVIDIA"
torch.cuda.mem_get_info = lambda device=None: (80 << 30, 80 << 30)
torch.cuda.Stream = torch.cuda.Event = stand_ins.Anything
warnings.simplefilter("ignore")

from sglang.srt.configs.load_config import LoadConfig  # noqa: E402
from sglang.srt.configs.model_config import ModelConfig  # noqa: E402
from sglang.srt.distributed import parallel_state  # noqa: E402
from sglang.srt.distributed.bootstrap import init_parallel_runtime  # noqa: E402
from sglang.srt.layers.radix_attention import RadixAttention  # noqa: E402
from sglang.srt.model_loader import loader  # noqa: E402
from sglang.srt.models import transformers as transformers_backend  # noqa: E402
from sglang.srt.runtime_context import SpawnRanks, publish  # noqa: E402
from sglang.srt.server_args import ServerArgs  # noqa: E402

parallel_state.is_cuda_alike = loader.is_cuda_alike = lambda: False  # their buffers are on the CPU
transformers_backend.get_device = lambda: "cpu"
logging.disable(logging.WARNING)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def load(question, watch):
    capability[:] = divmod(question["capability"], 10)
    arguments = ServerArgs(model_path=question["directory"], device="cpu", dtype="bfloat16", **question.get("options", {}))
    publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=0, gpu_id=0, dp_rank=None))
    if not torch.distributed.is_initialized():
        init_parallel_runtime(server_args=arguments, device="cpu", dist_port=free_port())
    model_config = ModelConfig.from_server_args(arguments)
    load_config = LoadConfig(load_format="safetensors")
    quant_config = loader._get_quantization_config(model_config, load_config)
    with loader.set_default_torch_dtype(model_config.dtype):
        model = loader._initialize_model(model_config, load_config, quant_config)
    weights = loader.DefaultModelLoader(load_config)._get_all_weights(model_config, model)
    with watch:
        loader.DefaultModelLoader.load_weights_only(model, watch.watched(weights), torch.device("cpu"))
    return quant_config, model, lambda module: isinstance(module, RadixAttention)


if __name__ == "__main__":
    loading.serve(load)
