curl -X POST http://localhost:30000/start_expert_distribution_record
# ... traffic ...
curl -X POST http://localhost:30000/stop_expert_distribution_record
curl -X POST http://localhost:30000/dump_expert_distribution_record
