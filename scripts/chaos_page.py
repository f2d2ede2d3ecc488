"""Visitors of the page, many at once, most of whom want what they must not get; ``chaos.py`` sends them."""

import concurrent.futures
import io
import json
import random
import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import timm_abn
from timm_abn.data.images import read_image

SAMPLES = sorted((Path(timm_abn.__file__).parent / 'samples').glob('*.png'))
PATIENCE = 300  # seconds, on a machine that is busy with other things
MEGABYTES = 1000  # that a page may grow by


class Visitor:
    """A browser, as far as the page can tell: it uploads a photo, and a layer that was painted on it."""

    def __init__(self, address, model):
        self.address, self.model = address, model
        self.session = f'{random.SystemRandom().getrandbits(64):x}'

    def ask(self, path, body=None, headers=()):
        request = urllib.request.Request(self.address + path, body, dict(headers))
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def status(self, path, body, headers):
        """Return how a request is answered; 413 where it is refused while its body is still being sent."""
        try:
            return self.ask(path, body, headers).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 413 if body else None

    def upload(self, content):
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="photo.png"\r\n\r\n'
        part = head + content + b'\r\n--x--\r\n'
        answer = json.load(self.ask('/gradio_api/upload', part, {'Content-Type': 'multipart/form-data; boundary=x'}))
        return dict(path=answer[0], orig_name='photo.png', meta={'_type': 'gradio.FileData'})

    def event(self, name, *data):
        """Return what the page answers to what a component of this name begins."""
        config = json.load(self.ask('/config'))
        (component,) = [each['id'] for each in config['components'] if each['props'].get('elem_id') == name]
        index = next(each['id'] for each in config['dependencies'] if each['targets'][0][0] == component)
        body = json.dumps(dict(data=data, fn_index=index, session_hash=self.session)).encode()
        self.ask('/gradio_api/queue/join', body, {'Content-Type': 'application/json'}).read()
        lines = self.ask(f'/gradio_api/queue/data?session_hash={self.session}')
        answers = (json.loads(line[6:]) for line in lines if line.startswith(b'data: '))
        return next(answer for answer in answers if answer['msg'] == 'process_completed')

    def see(self, content):
        """Return what is said of a photo: a message of what is wrong with it, and the table of probabilities."""
        answer = self.event('upload', self.upload(content), self.model, 'attention map')
        assert answer['success'], answer
        return answer['output']['data'][1], answer['output']['data'][3]

    def paint(self, content):
        """Paint with an image of any kind; it may be refused, but by an answer."""
        file, keeps = self.upload(content), "keep the network's own map"
        canvas = dict(background=file, layers=[file], composite=file, id=None)
        self.event('canvas', None, self.model, -1, 'attention map', keeps, canvas)


def bad_of_page(command, folder, env, hostile_images, rng):
    """Return what is bad about a page with sixteen visitors at once, most of whom want what they must not get."""
    env = dict(env, TMPDIR=str(folder))
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = process.stdout.readline().split()[4]
    large = io.BytesIO()
    read_image(SAMPLES[0]).resize((4000, 3000)).save(large, 'JPEG')
    photos = [large.getvalue(), *(path.read_bytes() for path in SAMPLES)]
    expected = {photo: Visitor(address, command[-1]).see(photo) for photo in photos}
    refused = [('/config', None, dict(Host='stranger.example'), 403), ('/gradio_api/queue/join', bytes(2**23), {}, 413)]
    refused += [('/config', None, dict(Origin='http://stranger.example'), 403), ('/x/upload', bytes(2**25), {}, 413)]

    def memory():
        return int(re.search(r'VmHWM:\s*(\d+)', Path(f'/proc/{process.pid}/status').read_text())[1]) / 1024

    def visit(kind, photo, hostile, request):
        visitor = Visitor(address, command[-1])
        try:
            if kind == 'request':
                found = visitor.status(*request[:3])
                return None if found == request[3] else f'{found}, not {request[3]}'
            if kind == 'hostile':
                return None if any(visitor.see(hostile)) else 'neither a message nor a table'
            if visitor.see(photo) != expected[photo]:
                return 'another answer than to a visitor alone'
            if kind == 'paint':
                visitor.paint(hostile)
        except Exception as error:
            return f'{kind}: {type(error).__name__}: {error}'

    before, kinds = memory(), ('request', 'honest', 'hostile', 'paint')
    tries = [(rng.choice(kinds), rng.choice(photos), hostile, rng.choice(refused)) for hostile in hostile_images]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        bad = [found for found in pool.map(visit, *zip(*tries)) if found]
    grown = memory() - before
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    if code not in (143, -15) or any(folder.glob('timm-abn-app-*')) or grown > MEGABYTES:
        bad.append(f'it ended with {code}, or left files, or took {grown:.0f} MB')
    return bad
