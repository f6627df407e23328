// Servers in a sandbox, what a sandbox may reach, and measurements (current-protocol 1.7, 11.10, 11.11).
//
// The names that getHost() gives do not resolve here; requests go to the address in E2B_SANDBOX_URL with such a name in
// their Host header, which is what a wildcard DNS entry does.
import assert from 'node:assert/strict'
import fs from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import { test } from 'node:test'
import { Sandbox, SandboxNotFoundError } from 'e2b'
import { create, setting, until } from './support.mjs'

const ECHO = `
import http.server, json, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    def server_bind(self): socket.socket.bind(self.socket, self.server_address[:2])
Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
`

// GET path from a sandbox's port, by its public name: [status, body, headers].
function visit(host, path = '/', headers = {}) {
  const { hostname, port } = new URL(setting('E2B_SANDBOX_URL'))
  return new Promise((resolve, reject) => {
    const request = http.get({ hostname, port, path, headers: { Host: host, ...headers } }, (answer) => {
      const chunks = []
      answer.on('data', (chunk) => chunks.push(chunk))
      answer.on('end', () => resolve([answer.statusCode, Buffer.concat(chunks).toString(), answer.headers]))
    })
    request.on('error', reject)
  })
}

// The same by HTTPS, as a client that trusts the server's authority: the status.
function visitSecurely(host) {
  const { hostname, port } = new URL(setting('SANDPIT_TEST_TLS'))
  const options = { hostname, port, headers: { Host: host }, servername: host.split(':')[0], ca: fs.readFileSync(setting('SANDPIT_TEST_CA')) }
  return new Promise((resolve, reject) => {
    https.get(options, (answer) => resolve(answer.resume().statusCode)).on('error', reject)
  })
}

async function serve(sandbox, port, address = '0.0.0.0') {
  await sandbox.files.write('/tmp/echo.py', ECHO)
  await sandbox.commands.run(`python3 /tmp/echo.py ${address} ${port}`, { background: true, timeoutMs: 0 })
  await until(async () => (await sandbox.commands.run(`ss -Htln sport = :${port}`)).stdout)
}

const outside = setting('SANDPIT_TEST_OUTSIDE').split(',')
const reaches = async (sandbox) => {
  const fetched = outside.map((url) => `curl -s -m 5 -o /dev/null ${url}; echo $?`).join('; ')
  const { stdout } = await sandbox.commands.run(fetched)
  return stdout.trim().split('\n').map((code) => code === '0')
}
const address = (url) => new URL(url).hostname
const everything = '0.0.0.0/0'

test('C119, C124: servers on any address', async (t) => {
  const sandbox = await create(t)
  for (const [index, bound] of ['0.0.0.0', '::', '127.0.0.1', '::1'].entries()) {
    await serve(sandbox, 8000 + index, bound)
    const host = sandbox.getHost(8000 + index)
    assert.equal(host, `${8000 + index}-${sandbox.sandboxId}.e2b.localhost:${new URL(setting('SANDPIT_TEST_TLS')).port}`)
    assert.equal(await visitSecurely(host), 200)
    const [status, body] = await visit(host, '/a%20b?c=d')
    const { path, headers } = JSON.parse(body)
    assert.deepEqual([status, path, headers.host], [200, '/a%20b?c=d', host])
  }
  await sandbox.commands.run('python -m http.server 9000 --directory /etc', { background: true, timeoutMs: 0 })
  await until(async () => (await visit(sandbox.getHost(9000), '/hostname'))[0] === 200)
})

test('C119-C120: nothing there', async (t) => {
  const sandbox = await create(t)
  const [status, body, headers] = await visit(sandbox.getHost(8888))
  assert.equal(status, 502)
  assert.equal(headers['content-type'], 'application/json; charset=utf-8')
  const message = 'The sandbox is running but port is not open'
  assert.deepEqual(JSON.parse(body), { sandboxId: sandbox.sandboxId, message, port: 8888, code: 502 })
  const browser = { 'User-Agent': 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36' }
  assert.match((await visit(sandbox.getHost(8888), '/', browser))[1], /no service running on port/)

  const host = sandbox.getHost(8000)
  await sandbox.kill()
  const gone = await visit(host)
  assert.equal(gone[0], 502)
  const { sandboxId, ...rest } = JSON.parse(gone[1])
  assert.ok(sandbox.sandboxId.startsWith(sandboxId) && sandboxId)
  assert.deepEqual(rest, { message: 'The sandbox was not found', code: 502 })
  assert.match((await visit(host, '/', browser))[1], /Sandbox Not Found/)
})

test('C116, C121: private ports', async (t) => {
  const sandbox = await create(t, { network: { allowPublicTraffic: false } })
  await serve(sandbox, 8000)
  const token = sandbox.trafficAccessToken
  assert.ok(token)
  const ask = async (value) => (await visit(sandbox.getHost(8000), '/', value && { 'e2b-traffic-access-token': value }))[0]
  assert.deepEqual([await ask(), await ask('wrong'), await ask(token)], [403, 403, 200])
  assert.equal((await visit(sandbox.getHost(49983), '/health'))[0], 204)
  assert.equal((await Sandbox.connect(sandbox.sandboxId)).trafficAccessToken, token)
  const open = await create(t)
  assert.ok(!open.trafficAccessToken)
})

test('C117: another host name for the server', async (t) => {
  const sandbox = await create(t, { network: { maskRequestHost: 'custom-host.example.com:${PORT}' } })
  await serve(sandbox, 8000)
  const [, body] = await visit(sandbox.getHost(8000))
  assert.equal(JSON.parse(body).headers.host, 'custom-host.example.com:8000')
  await assert.rejects(Sandbox.create({ network: { maskRequestHost: 'a b' } }), /400/)
})

test('C127-C128: the daemon asks who is there, and keeps its control calls to itself', async (t) => {
  const sandbox = await create(t)
  const stranger = new Sandbox({ sandboxId: sandbox.sandboxId, envdVersion: '0.6.13' })
  await assert.rejects(stranger.commands.run('id'), /unauthenticated|401/)
  await assert.rejects(stranger.files.read('/etc/hostname'), /401|token|signature/)
  assert.equal(await stranger.isRunning(), true)
  for (const path of ['/init', '//init', '/%69nit', '/./init', '/freeze']) {
    assert.equal((await visit(sandbox.getHost(49983), path))[0], 404, path)
  }
})

test('C113-C115: what a sandbox reaches, from its start and by rules that change', async (t) => {
  const [first, second] = outside.map(address)
  const closed = await create(t, { allowInternetAccess: false })
  assert.deepEqual(await reaches(closed), [false, false])
  const some = await create(t, { network: { denyOut: [everything], allowOut: [second] } })
  assert.deepEqual(await reaches(some), [false, true])

  const sandbox = await create(t, { allowInternetAccess: true })
  assert.deepEqual(await reaches(sandbox), [true, true])
  const cases = [
    [{ denyOut: [first] }, [false, true]],
    [{ denyOut: [everything] }, [false, false]],
    [{ denyOut: [first], allowOut: [`${first}/32`] }, [true, true]],
    [{ allowInternetAccess: false }, [false, false]],
    [{}, [true, true]],
  ]
  for (const [rules, expected] of cases) {
    await sandbox.updateNetwork(rules)
    assert.deepEqual(await reaches(sandbox), expected, JSON.stringify(rules))
    if (rules.denyOut) assert.deepEqual((await sandbox.getInfo()).network.denyOut, rules.denyOut)
  }
  await assert.rejects(sandbox.updateNetwork({ denyOut: ['example.com'] }), /400/)
  await assert.rejects(Sandbox.updateNetwork('nonexistingsandbox', {}), SandboxNotFoundError)
})

test('C125: metrics', async (t) => {
  const sandbox = await create(t)
  const from = new Date()
  const [sample] = await until(async () => {
    const found = await sandbox.getMetrics()
    return found.length > 0 && found
  })
  for (const name of ['cpuUsedPct', 'cpuCount', 'memUsed', 'memTotal', 'memCache', 'diskUsed', 'diskTotal']) {
    assert.equal(typeof sample[name], 'number', name)
  }
  assert.ok(sample.memTotal >= sample.memUsed && sample.memUsed > 0 && sample.diskTotal > sample.diskUsed)
  assert.ok(sample.timestamp instanceof Date && Math.abs(sample.timestamp - from) < 60_000)
  const range = { start: new Date(from - 10_000), end: new Date(+from + 60_000) }
  assert.ok((await sandbox.getMetrics(range)).length > 0)
  const before = { start: new Date(from - 3600_000), end: new Date(from - 1800_000) }
  assert.deepEqual(await sandbox.getMetrics(before), [])
})
