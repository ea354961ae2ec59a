# gunicorn.conf.py: gunicorn project.wsgi:application

bind = "127.0.0.1:8000"
worker_class = "gthread"
workers = 2
threads = 200  # each serves a stream or a request; MAX_STREAMS = 150 leaves 50 for pages
graceful_timeout = 10


def post_worker_init(worker):  # for preload_app: the worker has its own handlers by now
    from flosse_bus.transport import shutdown

    shutdown.install()


def post_request(worker, request, environ, response):  # for max_requests
    from flosse_bus.transport import shutdown

    if not worker.alive:
        shutdown.end_streams()
