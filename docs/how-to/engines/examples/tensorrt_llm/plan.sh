evenload inspect expert_statistic
evenload plan expert_statistic --gpus 32 --slots 288 -o moe_load_balancer.yaml
