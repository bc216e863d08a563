/** Daemons that cannot start, clients without a daemon, and peers that are not admitted. */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import { test } from 'node:test'
import { MESH_NODE, run, type Finished } from '../../scripts/cluster.ts'
import { Status } from '../../src/wire/api.ts'
import { Workplace } from '../cli/mesh-process.ts'
import { openMesh, problem, tcp, until, type Desk } from './meshes.ts'

/** A daemon that is expected to refuse. */
const refuse = (directory: string, ...more: readonly string[]): Promise<Finished> =>
  run(MESH_NODE, ['run', '--data', directory, '--http', '127.0.0.1:0', '--listen', 'none', ...more])

function told({ code, stderr }: Finished, exit: number, error: string, text: RegExp): void {
  assert.deepEqual([code, /^error\[(MESH\d+)\]/m.exec(stderr)?.[1]], [exit, error], stderr)
  assert.match(stderr, text)
}

test('bad-starts: a client without a daemon', { timeout: 60_000 }, async () => {
  using work = new Workplace()
  work.write('graph.mesh.toml', 'mesh = 1\n[derivation.a]\nbuilder = "/bin/sh"\n')
  for (const command of [['status'], ['submit', 'graph.mesh.toml'], ['run', '--', 'true']]) {
    const ended = await work.mesh('--json', ...command)
    assert.deepEqual(
      [ended.code, problem(ended).code],
      [69, 'MESH0101'],
      `${command.join()} ${ended.stderr}`,
    )
  }
  assert.equal((await work.mesh('explain', 'MESH0101')).code, 0)
})

test('bad-starts: data of a newer version', { timeout: 60_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const data = join(mesh.directory, 'newer')
  await mkdir(join(data, 'store'), { recursive: true })
  writeFileSync(join(data, 'store', 'format'), '99\n')
  told(await refuse(data), 78, 'MESH0106', /format "99".*knows 1/)
  // What could not be opened was not touched.
  assert.equal(readFileSync(join(data, 'store', 'format'), 'utf8'), '99\n')
})

test('bad-starts: an address that is taken', { timeout: 60_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const other = createServer().listen(0, '127.0.0.1')
  await once(other, 'listening')
  const address = other.address()
  assert(typeof address === 'object' && address !== null)
  try {
    const http = await refuse(join(mesh.directory, 'a'), '--http', `127.0.0.1:${address.port}`)
    told(http, 69, 'MESH0103', new RegExp(`127\\.0\\.0\\.1:${address.port}`))
    const data = join(mesh.directory, 'b')
    const peers = await run(MESH_NODE, [
      '--data',
      data,
      '--http',
      '127.0.0.1:0',
      '--listen',
      tcp(address.port),
    ])
    told(peers, 69, 'MESH0103', new RegExp(String(address.port)))
  } finally {
    other.close()
  }
})

test('bad-starts: a second daemon in one data directory', { timeout: 60_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const first = await mesh.start({ name: 'first', role: 'root' })
  told(await refuse(first.directory), 69, 'MESH0105', new RegExp(`pid ${first.pid}`))
  const desk = mesh.desk(first)
  assert.equal((await desk.mesh('status')).code, 0, 'the first one is not disturbed')
})

test(
  'bad-starts: listening beyond this machine needs a list of peers',
  { timeout: 60_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const data = join(mesh.directory, 'open')
    told(await refuse(data, '--http', '0.0.0.0:0'), 2, 'MESH0107', /--allow/)
    const peers = await run(MESH_NODE, [
      '--data',
      data,
      '--http',
      '127.0.0.1:0',
      '--listen',
      '/ip4/0.0.0.0/tcp/0',
    ])
    told(peers, 2, 'MESH0107', /--allow/)
  },
)

/** What the node says about its way up. */
async function parentError(desk: Desk): Promise<string> {
  return until('the parent to be tried', async () => {
    const status = await desk.ask(Status, '/api/status')
    assert.equal(status?.root.connected, false)
    return status?.parents[0]?.error ?? undefined
  })
}

test(
  'bad-starts: a peer that is not named is refused, by either side',
  { timeout: 60_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const someone = await mesh.start({ name: 'someone', role: 'root' })
    const closed = await mesh.start({
      name: 'closed',
      role: 'root',
      args: ['--allow', someone.file.peerId],
    })
    const worker = { role: 'worker,store', listen: 'none' }
    const [address = ''] = closed.file.listen
    const stranger = await mesh.start({ name: 'stranger', ...worker, args: ['--parent', address] })
    assert.match(
      await parentError(mesh.desk(stranger)),
      /hung up after the handshake \((?!\[object).*not to admit this node/,
    )

    // An open root, but the worker knows only another one.
    const transport = someone.file.listen[0]?.replace(/\/p2p\/.*/, '') ?? ''
    const picky = await mesh.start({
      name: 'picky',
      ...worker,
      args: ['--parent', transport, '--allow', closed.file.peerId],
    })
    assert.match(await parentError(mesh.desk(picky)), /this node does not admit/)
    for (const root of [closed, someone]) {
      const desk = mesh.desk(root)
      assert.deepEqual(
        (await desk.untilReady(root.name)).map(({ name }) => name),
        [root.name],
      )
    }
  },
)
