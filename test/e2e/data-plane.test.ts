/** Inputs between machines go over TLS, to those who belong to the mesh and to nobody else. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { rmSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { run, type Finished } from '../../scripts/cluster.ts'
import { Status } from '../../src/wire/api.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { starFor } from '../support/netns.ts'
import { openMesh, submitted, until, type Daemon } from './meshes.ts'

const MADE_BYTES = 5 * 1024 * 1024

/** What is used needs more processors than the node has that makes it. */
const GRAPH = `mesh = 1
${[1, 2]
  .map(
    (at) => `
[derivation.made${at}]
builder = "/bin/sh"
args = ["-c", 'seq ${at}0000000 ${at}9999999 | head -c ${MADE_BYTES} > $out']
[derivation.used${at}]
builder = "/bin/sh"
args = ["-c", 'wc -c < $made > $out']
inputs.made = { output = "made${at}" }
needs = { cpus = 2 }
`,
  )
  .join('')}`

/** Nothing in it repeats: equal parts would travel once. */
function blobOf(at: number): string {
  let text = ''
  for (let line = at * 10_000_000; text.length < MADE_BYTES; line++) text += `${line}\n`
  return sha256(text.slice(0, MADE_BYTES))
}

/** curl at a machine, whose command prefix is given. */
const curl = (prefix: readonly string[], ...args: readonly string[]): Promise<Finished> =>
  run('env', [...prefix, 'curl', '-sk', '--max-time', '10', ...args])

/** The status of an answer and the first of its body. */
async function get(prefix: readonly string[], url: string): Promise<[number, string]> {
  const { stdout } = await curl(prefix, '--max-filesize', '400', '-w', '\n%{http_code}', url)
  const lines = stdout.trimEnd().split('\n')
  return [Number(lines.at(-1)), lines.slice(0, -1).join('\n').trim()]
}

/** Blob bytes that a node has sent. */
async function sentBytes(prefix: readonly string[], url: string): Promise<number> {
  const { stdout } = await curl(prefix, `${url}/metrics`)
  return Number(/^mesh_transfer_bytes\{direction="sent".*\} (\d+)$/m.exec(stdout)?.[1])
}

const portOf = (daemon: Daemon): string => new URL(daemon.file.http).port

test(
  'data-plane: between machines blobs go over TLS, with a token, also after the certificate changed',
  { timeout: 180_000 },
  async (t) => {
    const star = starFor(t, 1)
    if (star === undefined) return
    await using mesh = await openMesh(t)
    const root = await mesh.start({
      name: 'root',
      role: 'root',
      within: star.atHub,
      listen: '/ip4/0.0.0.0/tcp/0',
      args: ['--allow', 'any', '--http', 'none'],
    })
    /** Nobody can dial it over libp2p: what is fetched from it goes over HTTP. */
    const startMaker = (http: string): Promise<Daemon> =>
      mesh.start({
        name: 'maker',
        role: 'worker,store',
        within: star.atHub,
        listen: 'none',
        cpus: 1,
        parents: [root],
        args: ['--allow', 'any', '--http', http],
      })
    const maker = await startMaker('0.0.0.0:0')
    const dev = await mesh.start({
      name: 'dev',
      role: 'client',
      within: star.atHub,
      parents: [root],
    })
    const desk = mesh.desk(dev)
    await desk.untilReady('maker')
    desk.write('graph.mesh.toml', GRAPH)
    const made = await desk.mesh('submit', 'graph.mesh.toml', '-A', 'made1', '-A', 'made2')
    assert.equal(made.code, 0, made.stderr)

    const rootPort = /\/tcp\/(\d+)/.exec(root.file.listen[0] ?? '')?.[1] ?? ''
    await mesh.start({
      name: 'user',
      role: 'worker',
      within: star.at(0),
      listen: 'none',
      cpus: 2,
      // Its outputs are fetched from it the same way.
      args: [
        ...['--parent', `/ip4/${star.hubAddress(0)}/tcp/${rootPort}`],
        ...['--allow', 'any', '--http', '0.0.0.0:0'],
      ],
    })
    await desk.untilReady('user')
    const base = `${star.hubAddress(0)}:${portOf(maker)}`
    const before = await sentBytes(star.at(0), `http://${base}`)
    const first = await desk.mesh('submit', 'graph.mesh.toml', '-A', 'used1', '--json')
    assert.equal(first.code, 0, first.stdout)
    assert.equal((await desk.job('used1')).attempts[0]?.node, 'user')
    const { bytes } = submitted(first)
    assert(bytes.peer >= MADE_BYTES, `${bytes.peer} bytes from peers`)
    assert.deepEqual([bytes.root, bytes.mirror], [0, 0])
    const sent = (await sentBytes(star.at(0), `http://${base}`)) - before
    assert(sent >= MADE_BYTES && sent < 1.5 * MADE_BYTES, `${sent} bytes sent`)

    // Whoever has no token gets nothing: not over TLS, and not without.
    const path = `/cas/${blobOf(1)}`
    assert.deepEqual(await get(star.at(0), `https://${base}${path}`), [
      401,
      'nodes of the mesh show a token here',
    ])
    const [status, text] = await get(star.at(0), `http://${base}${path}`)
    assert.deepEqual([status, /--http-open/.test(text)], [421, true], text)
    assert.equal((await get(star.atHub, `http://127.0.0.1:${portOf(maker)}${path}`))[0], 200)
    assert.equal((await get(star.at(0), `https://${base}/healthz`))[0], 200)

    // The same address, another certificate: its new record says so.
    await maker.stop()
    rmSync(join(maker.directory, 'identity', 'tls.pem'))
    await startMaker(`0.0.0.0:${portOf(maker)}`)
    await desk.untilReady('maker', 'user')
    const second = await desk.mesh(
      'submit',
      'graph.mesh.toml',
      '-A',
      'used2',
      '--json',
      '-o',
      'two',
    )
    assert.equal(second.code, 0, second.stderr)
    assert.equal(desk.read('two/used2').trim(), String(MADE_BYTES))
    assert(submitted(second).bytes.peer >= MADE_BYTES)
  },
)

test(
  'data-plane: a node below another has its tokens from the root, by way of that one',
  { timeout: 120_000 },
  async (t) => {
    const address = Object.values(networkInterfaces())
      .flatMap((list) => list ?? [])
      .find(({ internal, family }) => !internal && family === 'IPv4')?.address
    if (address === undefined) {
      t.skip('this machine has no address but loopback')
      return
    }
    await using mesh = await openMesh(t)
    const args = ['--http', 'none']
    const root = await mesh.start({ name: 'root', role: 'root', args })
    const middle = await mesh.start({ name: 'middle', role: 'client', parents: [root], args })
    // Neither can be dialled: the one way between the two is HTTPS.
    const store = await mesh.start({
      name: 'store',
      role: 'store',
      listen: 'none',
      parents: [root],
      args: ['--http', `${address}:0`, '--allow', 'any'],
    })
    const leaf = await mesh.start({
      name: 'leaf',
      role: 'client',
      listen: 'none',
      parents: [middle],
      args,
    })
    const giver = mesh.desk(store)
    await mesh.desk(middle).untilReady('store', 'middle')
    giver.write('file', randomBytes(MADE_BYTES))
    const put = await giver.mesh('put', 'file')
    assert.equal(put.code, 0, put.stderr)
    const taker = mesh.desk(leaf)
    await until('the leaf to reach the root', async () => {
      const status = await taker.ask(Status, '/api/status')
      return status?.root.connected === true ? true : undefined
    })
    const got = await taker.mesh('get', put.stdout.trim(), '-o', 'copy')
    assert.equal(got.code, 0, got.stderr)
    assert.equal(taker.read('copy'), giver.read('file'))
    assert((await sentBytes([], store.file.http)) >= MADE_BYTES)
  },
)
