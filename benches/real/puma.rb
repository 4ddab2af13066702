# One process for each request in service, with everything loaded before the fork.
workers Integer(ENV.fetch("WORKERS"))
threads 1, 1
bind ENV.fetch("BIND")
preload_app!
# A worker takes a connection when it is free to serve it, leaves others to others, and closes it with the answer.
queue_requests false
# On a host that is full a worker reports late.
worker_timeout 600
worker_boot_timeout 120
