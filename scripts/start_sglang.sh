#!/usr/bin/env bash
# Starts SGLang with one model (AWQ, GPTQ, FP8, safetensors), in the foreground. A copy of this for each model is what
# "script" names.
#
# The router sets PORT and MODEL. Everything else has a value here, which "env" of the model may replace.
set -eu

SGLANG="${SGLANG:-$HOME/venvs/sglang/bin/sglang}"
MODEL_DIR="${MODEL_DIR:-$HOME/models/Mistral-Small-3.2-24B-AWQ}"
CONTEXT="${CONTEXT:-32768}"
GPUS="${GPUS:-1}" # over how many GPUs the model is spread

# --- Memory -----------------------------------------------------------------------------------------------------------
# SGLang takes nearly the whole GPU, whatever the size of the model: the rest becomes room for contexts.
# MEMORY_FRACTION is the share for weights and contexts; about 2 GiB more go to graphs and batches.
#   out of memory while it captures graphs or serves   lower it (0.80, 0.75), or --chunked-prefill-size 2048
#   "Not enough memory" while it starts                raise it, or lower CONTEXT
#   another model shall fit beside it                  0.4, and the same as "memory" in the router's configuration
# --kv-cache-dtype fp8_e5m2   half the memory for contexts.
MEMORY_FRACTION="${MEMORY_FRACTION:-0.85}"

# --- Blackwell --------------------------------------------------------------------------------------------------------
# SGLang 0.5.23 from PyPI is built for CUDA 13, which knows both, and chooses its kernels by the card.
#   12.0   RTX PRO 6000, RTX 50 series   leave out what recipes for a B200 name: --attention-backend cutedsl_mla,
#                                        --moe-runner-backend flashinfer_trtllm, --quantization nvfp4_online.
#   10.0   B200                          has them all.

# SGLang's /health generates a token each time it is asked, unless it is told not to.
export SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=0
export PYTHONUNBUFFERED=1

# exec: so that the signal to stop reaches the server itself.
exec "$SGLANG" serve \
  --model-path "$MODEL_DIR" \
  --served-model-name "${MODEL:-model}" \
  --host 127.0.0.1 \
  --port "${PORT:-30000}" \
  --context-length "$CONTEXT" \
  --mem-fraction-static "$MEMORY_FRACTION" \
  --tp-size "$GPUS" \
  --enable-cache-report \
  "$@"
