"""A Hub on the loopback interface: the HTTP endpoints that huggingface_hub asks to load and to publish.

Repositories live in memory. What goes wrong on the way is asked for by attributes of the server, so that a test reads
as what happens.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = 'hf_testtoken'


class HubServer(ThreadingHTTPServer):
    """Serves repositories.

    Attributes:
        repositories: Name -> dict(private, branches: name -> commit), a commit being dict(sha, files: path -> bytes).
        requests: Method and path of every request so far.
        cut_after: Number of bytes after which the next download of weights breaks off, once.
        corrupt: Whether bytes of large files are changed on the way.
        fail_commits: Whether commits are refused by an internal error.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.repositories, self.objects, self.requests = {}, {}, []
        self.cut_after, self.corrupt, self.fail_commits = None, False, False

    @property
    def endpoint(self):
        return f'http://127.0.0.1:{self.server_port}'

    def add(self, repository, files, private=False, branch='main'):
        """Commit files to a branch, keep the others, and return the id of the commit."""
        known = self.repositories.setdefault(repository, dict(private=private, branches={}))
        before = known['branches'].get(branch, dict(sha='', files={}))
        content = dict(before['files'], **files)
        digest = hashlib.sha1(repr((before['sha'], branch, sorted(content.items()))).encode()).hexdigest()
        known['branches'][branch] = dict(sha=digest, files=content)
        return digest

    def add_folder(self, repository, folder, **kwargs):
        return self.add(repository, {path.name: path.read_bytes() for path in folder.iterdir()}, **kwargs)

    def files(self, repository, branch='main'):
        return self.repositories[repository]['branches'][branch]['files']

    def downloads(self, name):
        """Return how often the content of a file was asked for."""
        return sum(method == 'GET' and path.endswith(name) for method, path in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: HubServer

    def log_message(self, *args):
        pass

    def handle_one_request(self):
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def do_HEAD(self):
        self.respond()

    def do_GET(self):
        self.respond()

    def do_POST(self):
        self.respond()

    def do_PUT(self):
        self.respond()

    def respond(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, path)
            if self.command in method and match:
                return answer(self, **match.groupdict())
        self.answer(404, dict(error=f'no such endpoint: {self.command} {path}'))

    def answer(self, status, content, headers=()):
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in dict({'Content-Length': len(payload)}, **dict(headers)).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(payload)

    def refuse(self, status, code, message):
        self.answer(status, dict(error=message), {'X-Error-Code': code, 'X-Error-Message': message})

    def authorised(self):
        return self.headers.get('Authorization') == f'Bearer {TOKEN}'

    def repository(self, name):
        found = self.server.repositories.get(name)
        if found is None or (found['private'] and not self.authorised()):
            self.refuse(404 if self.authorised() else 401, 'RepoNotFound', 'Repository not found')
            return None
        return found

    def commit_of(self, repository, revision):
        for branch, commit in repository['branches'].items():
            if revision in (branch, commit['sha']):
                return commit
        self.refuse(404, 'RevisionNotFound', f'Invalid rev id: {revision}')
        return None

    # downloading

    def resolve(self, name, revision, path):
        repository = self.repository(name)
        commit = repository and self.commit_of(repository, revision)
        if not commit:
            return
        if path not in commit['files']:
            headers = {'X-Repo-Commit': commit['sha'], 'X-Error-Code': 'EntryNotFound'}
            self.answer(404, dict(error='Entry not found'), headers)
            return
        content = commit['files'][path]
        if not path.endswith(('.safetensors', '.bin')):
            etag = hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()
            self.answer(200, content, {'ETag': f'"{etag}"', 'X-Repo-Commit': commit['sha']})
            return
        digest = hashlib.sha256(content).hexdigest()
        self.server.objects[digest] = content
        self.answer(
            302,
            b'',
            {
                # another host, as that of the real storage, which is not to be sent the token
                'Location': f'http://localhost:{self.server.server_port}/storage/{digest}/{path}',
                'X-Repo-Commit': commit['sha'],
                'X-Linked-Etag': f'"{digest}"',
                'X-Linked-Size': len(content),
            },
        )

    def storage(self, digest):
        assert not self.headers.get('Authorization')
        content = self.server.objects[digest]
        if self.server.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 255])
        begin = int(re.match(r'bytes=(\d+)-|', self.headers.get('Range', '')).group(1) or 0)
        cut, self.server.cut_after = self.server.cut_after, None
        self.send_response(206 if begin else 200)
        self.send_header('Content-Length', str(len(content) - begin))
        if begin:
            self.send_header('Content-Range', f'bytes {begin}-{len(content) - 1}/{len(content)}')
        self.end_headers()
        self.wfile.write(content[begin:][:cut])
        if cut is not None:
            self.close_connection = True

    # publishing

    def info(self, name, revision='main'):
        repository = self.repository(name)
        if repository:
            commit = repository['branches'].get(revision, dict(sha='0' * 40, files={}))
            siblings = [dict(rfilename=path) for path in commit['files']]
            self.answer(200, dict(id=name, sha=commit['sha'], private=repository['private'], siblings=siblings))

    def create(self):
        if not self.authorised():
            return self.refuse(401, 'Unauthorized', 'Invalid credentials')
        asked = json.loads(self.body)
        name = '/'.join(filter(None, (asked.get('organization'), asked['name'])))
        private = bool(asked.get('private')) or asked.get('visibility') == 'private'
        if name not in self.server.repositories:
            self.server.add(name, {'.gitattributes': b''}, private)
            self.server.repositories[name]['sdk'] = asked.get('sdk')
        self.answer(200, dict(url=f'{self.server.endpoint}/{name}', name=name, id=name))

    def create_branch(self, name, branch):
        branches = self.repository(name)['branches']
        branches[branch] = dict(branches['main'])
        self.answer(200, {})

    def validate(self):
        self.answer(200, dict(errors=[], warnings=[]))

    def preupload(self, name, revision):
        if not self.authorised():
            return self.refuse(403, 'Forbidden', 'Forbidden: pass a token that may write')
        modes = [
            dict(
                path=file['path'],
                uploadMode='lfs' if file['path'].endswith('.safetensors') else 'regular',
                shouldIgnore=False,
            )
            for file in json.loads(self.body)['files']
        ]
        self.answer(200, dict(files=modes))

    def lfs_batch(self, name):
        objects = [
            dict(known, actions=dict(upload=dict(href=f'{self.server.endpoint}/upload/{known["oid"]}')))
            for known in json.loads(self.body)['objects']
        ]
        self.answer(200, dict(transfer='basic', objects=objects))

    def upload(self, digest):
        assert hashlib.sha256(self.body).hexdigest() == digest
        self.server.objects[digest] = self.body
        self.answer(200, b'')

    def commit(self, name, revision):
        if self.server.fail_commits:
            return self.answer(500, dict(error='Internal Error'))
        files = {}
        for line in self.body.splitlines():
            item = json.loads(line)
            if item['key'] == 'file':
                files[item['value']['path']] = base64.b64decode(item['value']['content'])
            elif item['key'] == 'lfsFile':
                files[item['value']['path']] = self.server.objects[item['value']['oid']]
        sha = self.server.add(name, files, branch=revision)
        self.answer(200, dict(commitUrl=f'{self.server.endpoint}/{name}/commit/{sha}', commitOid=sha, success=True))


_NAME = r'(?P<name>[^/]+/[^/]+)'
_KIND = '(models|spaces)'
_ROUTES = [
    (('GET', 'HEAD'), rf'/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)', _Handler.resolve),
    (('GET',), r'/storage/(?P<digest>\w+)/.+', _Handler.storage),
    (('GET',), rf'/api/{_KIND}/{_NAME}(/revision/(?P<revision>.+))?', lambda self, name, revision: self.info(name)),
    (('POST',), r'/api/repos/create', _Handler.create),
    (('POST',), r'/api/validate-yaml', _Handler.validate),
    (('POST',), rf'/api/{_KIND}/{_NAME}/branch/(?P<branch>.+)', _Handler.create_branch),
    (('POST',), rf'/api/{_KIND}/{_NAME}/preupload/(?P<revision>.+)', _Handler.preupload),
    (('POST',), rf'/api/{_KIND}/{_NAME}/commit/(?P<revision>.+)', _Handler.commit),
    (('POST',), rf'(/spaces)?/{_NAME}.git/info/lfs/objects/batch', _Handler.lfs_batch),
    (('PUT',), r'/upload/(?P<digest>\w+)', _Handler.upload),
]


@contextlib.contextmanager
def running_hub():
    """Yield a server that answers until the block ends."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
