"""nginx as the mark to hold against: one worker that passes bytes on and looks at nothing.

Everything it writes lies in the folder it is given; the system's own configuration is not read.
"""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

# Without the large buffers a 32 KB body would go through a file; without the counts nginx would close connections
# after 1,000 requests. Both would make it look dearer than it is.
_CONFIG = """\
{user}daemon off;
master_process on;
worker_processes 1;
worker_rlimit_nofile 8192;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 75s;
    keepalive_requests 10000000;
    client_body_buffer_size 1m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream engine {{
        server 127.0.0.1:{upstream};
        keepalive 64;
        keepalive_requests 10000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""


def find() -> str | None:
    """The nginx executable, also where a user's PATH doesn't look."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/sbin")


def argv(binary: str, folder: Path, port: int, upstream_port: int) -> list[str]:
    """Writes the configuration into `folder`; the command that serves `port` in front of `upstream_port`."""
    # As root, nginx would run its worker as a user who may not read our folder.
    user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(user=user, folder=folder, port=port, upstream=upstream_port))
    return [binary, "-p", str(folder), "-c", str(config), "-e", "stderr"]
