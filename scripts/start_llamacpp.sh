#!/usr/bin/env bash
# Starts llama.cpp's server with one GGUF model, in the foreground. A copy of this for each model is its "script".
#
# The router sets PORT and MODEL. Everything else has a value here, which "env" of the model may replace.
set -eu

LLAMA_SERVER="${LLAMA_SERVER:-$HOME/llama.cpp/build/bin/llama-server}"
MODEL_FILE="${MODEL_FILE:-$HOME/models/Qwen3-32B-Q4_K_M.gguf}" # of a split model: the first file
CONTEXT="${CONTEXT:-16384}"                                    # shared by the slots
SLOTS="${SLOTS:-1}"                                            # requests at the same time

# --- Memory -----------------------------------------------------------------------------------------------------------
# --n-gpu-layers all   every layer on the GPU, or the load fails: "out of memory". A number puts the rest on the CPU.
# --n-cpu-moe N        of a mixture of experts: the experts of N layers stay in main memory, the cheapest way to shrink.
# --cache-type-k q8_0 --cache-type-v q8_0   half the memory for the context; the second one needs --flash-attn on.
# --cache-ram 8192     main memory (MiB) that keeps old prompts; each running server takes its own.
#
# --- Blackwell --------------------------------------------------------------------------------------------------------
# Build with CUDA 12.8 or newer:   cmake -B build -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=NUMBER
#   12.0   RTX PRO 6000, RTX 50 series   -DCMAKE_CUDA_ARCHITECTURES=120a-real
#   10.0   B200                          -DCMAKE_CUDA_ARCHITECTURES=100
# Several, for one build that runs on both:                          "100;120a-real"
# A build for other cards starts, and ends with "no kernel image is available for execution on the device".

# exec: so that the signal to stop reaches the server itself. A stream that is open when that signal comes holds
# llama-server up until its next ping, 30 s by default.
exec "$LLAMA_SERVER" \
  --model "$MODEL_FILE" \
  --alias "${MODEL:-model}" \
  --host 127.0.0.1 \
  --port "${PORT:-8085}" \
  --ctx-size "$CONTEXT" \
  --parallel "$SLOTS" \
  --n-gpu-layers "${GPU_LAYERS:-all}" \
  --flash-attn on \
  --jinja \
  --sse-ping-interval 1 \
  "$@"
