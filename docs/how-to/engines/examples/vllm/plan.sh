evenload inspect routed.npz --format vllm-routed-experts --experts 128
evenload plan routed.npz --format vllm-routed-experts --experts 128 \
  --gpus 8 --slots 144 -o placement.json
