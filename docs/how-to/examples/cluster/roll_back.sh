touch /shared/evenload.off
