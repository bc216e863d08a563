/** How a node stops: what it runs goes on elsewhere at once, and nothing of it is left. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { join } from 'node:path'
import { after, test, type TestContext } from 'node:test'
import { processesWith, uniqueSleep } from '../build/builds.ts'
import { openMesh, submitted, until, type Daemon, type Desk, type Mesh } from './meshes.ts'

const open: AsyncDisposable[] = []
after(async () => {
  for (const each of open) await each[Symbol.asyncDispose]()
})

interface Small {
  readonly mesh: Mesh
  readonly root: Daemon
  readonly desk: Desk
  readonly start: (name: string, ...args: readonly string[]) => Promise<Daemon>
}

/** A root without a worker, and workers that come when they are called. */
async function smallMesh(t: TestContext): Promise<Small> {
  const mesh = await openMesh(t)
  open.push(mesh)
  const root = await mesh.start({ name: 'root', role: 'root,store' })
  const desk = mesh.desk(root)
  return {
    mesh,
    root,
    desk,
    async start(name, ...args) {
      const daemon = await mesh.start({
        name,
        role: 'worker,store',
        listen: 'none',
        cpus: 1,
        parents: [root],
        args,
      })
      await desk.untilReady(name)
      return daemon
    },
  }
}

const graph = (script: string, sealed: boolean): string =>
  `mesh = 1\n[derivation.task]\nbuilder = "/bin/sh"\nargs = ["-c", '''${script}''']\nsealed = ${sealed}\n`

function exitOf(daemon: Daemon): () => boolean {
  return () => {
    try {
      process.kill(daemon.pid, 0)
      return false
    } catch {
      return true
    }
  }
}

async function untilGone(daemon: Daemon): Promise<void> {
  const isGone = exitOf(daemon)
  await until(`${daemon.name} to be gone`, async () => (isGone() ? true : undefined))
}

const logOf = (mesh: Mesh, name: string): string =>
  readFileSync(join(mesh.directory, `${name}.log`), 'utf8')

const attemptsIn = (daemon: Daemon): string[] =>
  readdirSync(join(daemon.directory, 'build')).filter((name) => name.startsWith('a-'))

for (const [what, sealed, command] of [
  ['a sealed build', true, (mark: string) => `sleep ${mark}`],
  ['a build without walls', false, (mark: string) => `sleep ${mark}`],
  [
    'a build that ignores SIGTERM',
    false,
    (mark: string) => `trap "" TERM INT HUP; (setsid sleep ${mark} &); sleep ${mark}`,
  ],
] as const)
  test(`shutdown: ${what} is handed back at the deadline`, { timeout: 60_000 }, async (t) => {
    const { mesh, desk, start } = await smallMesh(t)
    const gate = join(mesh.directory, 'gate')
    const mark = uniqueSleep()
    // The second node finds the gate open; a sealed build sees no file, but the name of its node.
    const script = sealed
      ? `if [ "$MESH_NODE" = one ]; then ${command(mark)}; fi; echo > $out`
      : `if [ ! -e ${gate} ]; then ${command(mark)}; fi; echo > $out`
    desk.write('task.mesh.toml', graph(script, sealed))
    const walls = sealed ? [] : ['--isolation', 'host']
    const one = await start('one', '--drain-deadline', '2s', ...walls)
    const submitting = desk.follow('submit', 'task.mesh.toml', '--json')
    const job = await desk.untilJob('task', 'building')
    await until('the process', async () =>
      (await processesWith(mark)).length > 0 ? true : undefined,
    )
    await start('two', ...walls)
    writeFileSync(gate, '')
    process.kill(one.pid, 'SIGTERM')
    await untilGone(one)
    const goneAtMs = performance.now()
    const ended = await submitting.ended
    const tookMs = performance.now() - goneAtMs
    assert.equal(ended.code, 0, ended.stderr)
    assert.equal(submitted(ended).jobs.built, 1)
    assert(tookMs < 8_000, `it ran elsewhere only after ${tookMs} ms: the lease had to end`)
    const [first, second] = (await desk.job('task')).attempts
    assert.deepEqual([first?.node, first?.state, second?.node], ['one', 'lost', 'two'])
    assert.match(first?.error ?? '', /one stopped and handed it back/)
    assert.match(logOf(mesh, 'one'), /drain waits for builds/)
    assert.match(logOf(mesh, 'one'), /"msg":"stopped"|stopped/)
    assert.deepEqual(await processesWith(mark), [])
    assert.deepEqual(attemptsIn(one), [])
    assert(!existsSync(join(one.directory, 'node.json')))
    // Its log ended with its true reason, and came along.
    const log = await desk.mesh('logs', `${job.id}#1`)
    assert.match(log.stdout, /mesh: handed back: the node is stopping \(MESH0108\)\n$/)
  })

test('shutdown: a build that ends in time is waited for', { timeout: 60_000 }, async (t) => {
  const { mesh, desk, start } = await smallMesh(t)
  const gate = join(mesh.directory, 'gate')
  const script = `until [ -e ${gate} ]; do sleep 0.05; done; echo > $out`
  desk.write('task.mesh.toml', graph(script, false))
  const one = await start('one', '--isolation', 'host')
  const submitting = desk.follow('submit', 'task.mesh.toml', '--json')
  await desk.untilJob('task', 'building')
  process.kill(one.pid, 'SIGTERM')
  await until('the notice', async () =>
    /drain waits for builds/.test(logOf(mesh, 'one')) ? true : undefined,
  )
  writeFileSync(gate, '')
  assert.equal((await submitting.ended).code, 0)
  await untilGone(one)
  assert.equal((await desk.job('task')).attempts.length, 1)
})

test('shutdown: a second signal does not wait', { timeout: 60_000 }, async (t) => {
  const { mesh, desk, start } = await smallMesh(t)
  const mark = uniqueSleep()
  desk.write('task.mesh.toml', graph(`sleep ${mark}`, false))
  const one = await start('one', '--drain-deadline', '1h', '--isolation', 'host')
  const submitting = desk.follow('submit', 'task.mesh.toml', '--detach', '--json')
  assert.equal((await submitting.ended).code, 0)
  await desk.untilJob('task', 'building')
  process.kill(one.pid, 'SIGTERM')
  await until('the notice', async () =>
    /drain waits for builds/.test(logOf(mesh, 'one')) ? true : undefined,
  )
  process.kill(one.pid, 'SIGTERM')
  await untilGone(one)
  assert.deepEqual(await processesWith(mark), [])
  assert.deepEqual(attemptsIn(one), [])
  await until('the job to wait again', async () =>
    (await desk.job('task')).state === 'waiting' ? true : undefined,
  )
})

test('shutdown: kill -9 while it drains leaves nothing running', { timeout: 60_000 }, async (t) => {
  const { mesh, desk, start } = await smallMesh(t)
  const mark = uniqueSleep()
  desk.write(
    'task.mesh.toml',
    graph(`echo begun; trap "" TERM; (setsid sleep ${mark} &); sleep ${mark}`, false),
  )
  const one = await start('one', '--drain-deadline', '1h', '--isolation', 'host')
  const submitting = desk.follow('submit', 'task.mesh.toml', '--detach', '--json')
  assert.equal((await submitting.ended).code, 0)
  const job = await desk.untilJob('task', 'building')
  await until('its first line', async () =>
    (await desk.mesh('logs', job.id)).stdout === 'begun\n' ? true : undefined,
  )
  process.kill(one.pid, 'SIGTERM')
  await until('the notice', async () =>
    /drain waits for builds/.test(logOf(mesh, 'one')) ? true : undefined,
  )
  await one.kill()
  await until('no process', async () =>
    (await processesWith(mark)).length === 0 ? true : undefined,
  )
  // What it had printed is found at the next start, with what became of it.
  const again = await start('one', '--isolation', 'host')
  assert.deepEqual(
    attemptsIn(again).filter((id) => id === job.attempts[0]?.id),
    [],
  )
  const log = await desk.mesh('logs', `${job.id}#1`)
  assert.equal(
    log.stdout,
    'begun\nmesh: lost: its node was killed or restarted while it ran (MESH0505)\n',
  )
})

test('shutdown: an attempt that fetches is handed back', { timeout: 60_000 }, async (t) => {
  const { desk, start } = await smallMesh(t)
  const server = await silentServer()
  open.push(server)
  const sha256 = '0'.repeat(64)
  desk.write(
    'task.mesh.toml',
    `mesh = 1\n[sources.it]\nurls = ["${server.url}"]\nsha256 = "${sha256}"\n[derivation.task]\nbuilder = "/bin/true"\ninputs.it = { source = "it" }\n`,
  )
  const one = await start('one', '--drain-deadline', '1s')
  const submitting = desk.follow('submit', 'task.mesh.toml', '--detach', '--json')
  const said = await submitting.ended
  assert.equal(said.code, 0, said.stderr + said.stdout)
  await until('the request', async () => (server.asked() > 0 ? true : undefined))
  process.kill(one.pid, 'SIGTERM')
  await untilGone(one)
  await until('the job to wait again', async () =>
    (await desk.job('sources.it')).state === 'waiting' ? true : undefined,
  )
  assert.match((await desk.job('sources.it')).attempts[0]?.error ?? '', /handed it back/)
  assert.deepEqual(attemptsIn(one), [])
})

/** Accepts requests and never answers. */
async function silentServer(): Promise<AsyncDisposable & { url: string; asked(): number }> {
  let asked = 0
  const server: Server = createServer(() => {
    asked += 1
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  assert(typeof address === 'object' && address !== null)
  return {
    url: `http://127.0.0.1:${address.port}/source`,
    asked: () => asked,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
