evenload inspect loads.pt
evenload plan loads.pt --gpus 16 --slots 272 \
  -o expert_map.json --output-format vllm-ascend
