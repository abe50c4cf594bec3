evenload convert loads.pt loads.npz
evenload plan loads.pt --gpus 16 --slots 272 \
  -o expert_map.json --output-format vllm-ascend
