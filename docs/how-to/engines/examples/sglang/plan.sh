evenload inspect recordings
evenload replay recordings --gpus 8 --slots 72 --hardware h100-ib --merge 1000
evenload plan recordings --gpus 8 --slots 72 -o init.json --output-format sglang
