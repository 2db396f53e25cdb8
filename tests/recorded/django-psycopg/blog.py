"""A Django app in one file: settings, models, views."""

import logging
import logging.handlers
import os
import queue
import sys
from urllib.parse import urlparse

import requests

database = urlparse(os.environ["DATABASE_URL"])
SECRET_KEY = "of a recording"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = __name__
INSTALLED_APPS = ["blog_models"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database.path[1:],
        "USER": database.username,
        "HOST": database.hostname,
        "PORT": database.port,
    }
}
STUB_URL = os.environ["STUB_URL"]

http = requests.Session()


class LokiHandler(logging.Handler):
    """Sends each line on its own and waits for the answer."""

    def emit(self, record):
        http.post(f"{STUB_URL}/loki/api/v1/push", json={"streams": [{"values": [["0", record.getMessage()]]}]})


sync_log = logging.getLogger("orders.sync")
async_log = logging.getLogger("orders.async")


def about(request):
    from blog_models.models import Author

    return JsonResponse({"authors": Author.objects.count()})


def posts_lazy(request):
    from blog_models.models import Post

    return JsonResponse({"posts": [[it.title, it.author.name] for it in Post.objects.order_by("-id")[:20]]})


def posts_eager(request):
    from blog_models.models import Post

    posts = Post.objects.select_related("author").order_by("-id")[:20]
    return JsonResponse({"posts": [[it.title, it.author.name] for it in posts]})


def posts_page(request):
    from blog_models.models import Post
    from django.core.paginator import Paginator

    page = Paginator(Post.objects.select_related("author").order_by("id"), 10).get_page(request.GET["page"])
    return JsonResponse({"posts": [[it.title, it.author.name] for it in page], "of": page.paginator.count})


def posts_export(request):
    from blog_models.models import Post

    titles, last = [], 0
    while page := list(Post.objects.filter(id__gt=last).order_by("id")[:8]):
        titles += [it.title for it in page]
        last = page[-1].id
    return JsonResponse({"titles": titles})


def visits_rows(request):
    from blog_models.models import Visit

    for post in range(1, 21):
        Visit.objects.create(post_id=post)
    return JsonResponse({})


def visits_bulk(request):
    from blog_models.models import Visit

    Visit.objects.bulk_create(Visit(post_id=post) for post in range(1, 21))
    return JsonResponse({})


def report(request):
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT a.name, count(*) FROM authors a JOIN posts p ON p.author_id = a.id"
            " CROSS JOIN generate_series(1, %s) g WHERE (p.id + g) %% 7 = 0 GROUP BY a.name ORDER BY 2 DESC",
            [150000],
        )
        return JsonResponse({"authors": cursor.fetchall()})


def orders_log_sync(request):
    from blog_models.models import Author

    count = Author.objects.count()
    sync_log.warning("order of %s", count)
    return JsonResponse({})


def orders_log_async(request):
    from blog_models.models import Author

    count = Author.objects.count()
    async_log.warning("order of %s", count)
    return JsonResponse({})


def prices_each(request):
    return JsonResponse({"prices": [http.get(f"{STUB_URL}/prices/{it}").json() for it in range(1, 13)]})


def prices_batch(request):
    ids = ",".join(str(it) for it in range(1, 13))
    return JsonResponse({"prices": http.get(f"{STUB_URL}/prices", params={"ids": ids}).json()})


if __name__ != "__main__":
    from django.http import JsonResponse
    from django.urls import path

    urlpatterns = [
        path("about", about),
        path("posts/lazy", posts_lazy),
        path("posts/eager", posts_eager),
        path("posts/page", posts_page),
        path("posts/export", posts_export),
        path("visits/rows", visits_rows),
        path("visits/bulk", visits_bulk),
        path("report", report),
        path("orders/log-sync", orders_log_sync),
        path("orders/log-async", orders_log_async),
        path("prices/each", prices_each),
        path("prices/batch", prices_batch),
    ]
    sync_log.addHandler(LokiHandler())
    # Sends what the queue holds, behind the requests.
    lines = queue.SimpleQueue()
    async_log.addHandler(logging.handlers.QueueHandler(lines))
    logging.handlers.QueueListener(lines, LokiHandler()).start()
else:
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
