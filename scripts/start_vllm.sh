#!/usr/bin/env bash
# Starts vLLM with one model (safetensors, FP8, AWQ, GPTQ, NVFP4), in the foreground. A copy of this for each model is
# what "script" names.
#
# The router sets PORT and MODEL. Everything else has a value here, which "env" of the model may replace.
set -eu

VLLM="${VLLM:-$HOME/venvs/vllm/bin/vllm}"
MODEL_DIR="${MODEL_DIR:-$HOME/models/Qwen3-14B-FP8}"
CONTEXT="${CONTEXT:-32768}"
GPUS="${GPUS:-1}" # over how many GPUs the model is spread

# --- Memory -----------------------------------------------------------------------------------------------------------
# vLLM takes its share of the GPU whatever the size of the model, and refuses to start where less than that is free:
# "Free memory on device … is less than desired GPU memory utilization".
#   another model shall fit beside it    0.45, and the same as "memory" in the router's configuration
#   "larger than the available KV cache memory"   raise it, or lower CONTEXT
# --kv-cache-dtype fp8       half the memory for contexts.
# --enforce-eager            no graphs: a faster start and a little memory, for slower answers.
MEMORY_SHARE="${MEMORY_SHARE:-0.90}"

# --- Blackwell --------------------------------------------------------------------------------------------------------
# Needs a build for CUDA 12.8 or newer, which the wheels on PyPI are; an older one ends with "no kernel image is
# available".
#   12.0   RTX PRO 6000, RTX 50 series   has no kernels of 10.0: leave the choice of the attention backend to vLLM.
#   10.0   B200                          likewise.

export PYTHONUNBUFFERED=1

# exec: so that the signal to stop reaches the server itself.
exec "$VLLM" serve "$MODEL_DIR" \
  --served-model-name "${MODEL:-model}" \
  --host 127.0.0.1 \
  --port "${PORT:-8000}" \
  --max-model-len "$CONTEXT" \
  --gpu-memory-utilization "$MEMORY_SHARE" \
  --tensor-parallel-size "$GPUS" \
  --enable-prompt-tokens-details \
  "$@"
