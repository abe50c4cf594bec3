evenload inspect loads.npz
evenload plan loads.npz --gpus 32 --nodes 4 --slots 288 --groups 8 --topology ignore -o placement.json
