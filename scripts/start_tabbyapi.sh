#!/usr/bin/env bash
# Starts TabbyAPI (EXL3; on its branch exl2-checkpoint EXL2), in the foreground. With an admin key and "model_name" in
# its configuration the router loads and unloads models in it; else it serves the one that is named here.
#
# The router sets PORT. Everything else has a value here, which "env" of the model may replace.
set -eu

TABBY_DIR="${TABBY_DIR:-$HOME/tabbyAPI}"          # its config.yml and api_tokens.yml are read from there
MODELS_DIR="${MODELS_DIR:-$HOME/models/exl3}"     # a folder of model folders
MODEL_NAME="${MODEL_NAME:-}"                      # one of them; empty: started without a model

# --- Memory -----------------------------------------------------------------------------------------------------------
# A context takes memory from the start, and without a limit it is the model's own, often 128k and more: "Insufficient
# VRAM in split for model and cache". CONTEXT counts for MODEL_NAME alone; for models that the router loads it is
# "context_length" in the router's configuration.
# --cache-mode 8,8 (or 6,6)   half the memory for the context, or less. Keys that shall count for loads through the API
#                             too go into tabby_config.yml in the model's folder.
CONTEXT="${CONTEXT:-16384}" # a multiple of 256

# --- Blackwell --------------------------------------------------------------------------------------------------------
# Both extras bring a PyTorch that knows compute capability 12.0 (RTX PRO 6000, RTX 50 series) and 10.0 (B200):
#   pip install .[cu12]    CUDA 12.8
#   pip install .[cu13]    CUDA 13
# The branch for EXL2 has them too.

export PYTHONUNBUFFERED=1
# Into a file it would cut its log lines at 80 columns.
export TABBY_LOG_CONSOLE_WIDTH=240

options=(--host 127.0.0.1 --port "${PORT:-5000}" --model-dir "$MODELS_DIR" --model-name "$MODEL_NAME")
if [ -n "$MODEL_NAME" ]; then
  options+=(--max-seq-len "$CONTEXT" --cache-size "$CONTEXT")
fi

# It looks for its files in the folder it runs in. If the port is taken it silently uses the next one.
cd "$TABBY_DIR"
# exec: so that the signal to stop reaches the server itself.
exec "${TABBY_PYTHON:-venv/bin/python}" main.py "${options[@]}" "$@"
