/** `kill -9` of a worker in the middle of a graph: the rest of the mesh completes it, and nothing is left. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { processesWith } from '../build/builds.ts'
import { freePort, openMesh, submitted, tcp, until, type Daemon } from './meshes.ts'

/** Each part sleeps in a sealed build; the whole needs all of them. */
const graph = (sleeps: readonly string[]): string => `mesh = 1
${sleeps
  .map(
    (seconds, at) => `
[derivation.part-${at}]
builder = "/bin/sh"
args = ["-c", 'sleep ${seconds} & wait; echo part ${at} on $MESH_NODE >&2; echo ${at} > $out']`,
  )
  .join('\n')}

[derivation.whole]
builder = "/bin/sh"
args = ["-c", 'cat $p0 $p1 $p2 $p3 > $out']
${sleeps.map((_, at) => `inputs.p${at} = { output = "part-${at}" }`).join('\n')}
`

test(
  'survive-worker: a killed worker is replaced and works again when it is back',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const worker = { role: 'worker,store', listen: 'none', cpus: 1, parents: [root] }
    const [dev, w1] = await Promise.all([
      mesh.start({ name: 'dev', role: 'client', parents: [root] }),
      mesh.start({ name: 'w1', ...worker }),
      mesh.start({ name: 'w2', ...worker }),
    ])
    const desk = mesh.desk(dev)
    await desk.untilReady('w1', 'w2')
    // A duration that no other process on the machine has, to find the build by.
    const sleeps = Array.from({ length: 4 }, (_, at) => `2.0${process.pid}${at}`)
    const following = desk.follow('submit', desk.write('graph.mesh.toml', graph(sleeps)), '--json')
    const victim = await until('a part to build on w1', async () =>
      (await desk.jobs()).find(
        ({ attempts: [first] }) => first?.node === 'w1' && first.state === 'building',
      ),
    )
    const [mark = ''] = sleeps.filter((_, at) => victim.name === `part-${at}`)
    await until('its process', async () =>
      (await processesWith(mark)).length > 0 ? true : undefined,
    )

    await w1.kill()
    await until('its build to be gone', async () =>
      (await processesWith(mark)).length === 0 ? true : undefined,
    )
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.deepEqual(submitted(ended).jobs, { built: 5, cached: 0, failed: 0, cancelled: 0 })
    assert.equal(desk.read('result/whole'), '0\n1\n2\n3\n')
    const retried = await desk.job(victim.name)
    assert.deepEqual(
      retried.attempts.map(({ n, node, state }) => ({ n, node, state })),
      [
        { n: 1, node: 'w1', state: 'lost' },
        { n: 2, node: 'w2', state: 'done' },
      ],
    )
    assert.match(retried.attempts[0]?.error ?? '', /w1/)

    await mesh.start({ name: 'w1', ...worker })
    await desk.untilReady('w1')
    const again = desk.write(
      'again.mesh.toml',
      graph(sleeps.map((seconds) => `0${seconds.slice(1)}`)),
    )
    const second = await desk.mesh('submit', again, '--json', '-o', 'again')
    assert.equal(second.code, 0, second.stderr)
    const nodes = (await desk.jobs()).slice(0, 5).map((job) => job.attempts[0]?.node)
    assert(nodes.includes('w1'), `ran on ${nodes.join(', ')}`)
  },
)

/** The small process that spawns the builds of a daemon. */
async function executorOf({ pid }: Pick<Daemon, 'pid'>): Promise<number> {
  const children = (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8'))
    .trim()
    .split(' ')
    .map(Number)
  for (const child of children)
    if ((await readFile(`/proc/${child}/cmdline`, 'utf8')).includes('executor-process'))
      return child
  throw new Error(`the daemon ${pid} has no executor process`)
}

for (const isolation of ['auto', 'host'])
  test(
    `survive-worker: a killed executor is replaced, and its builds are gone, with isolation ${isolation}`,
    { timeout: 120_000 },
    async (t) => {
      await using mesh = await openMesh(t)
      const options = {
        name: 'alone',
        role: 'root,worker,store',
        listen: tcp(await freePort()),
        args: ['--isolation', isolation],
      }
      const alone = await mesh.start(options)
      const desk = mesh.desk(alone)
      const mark = `2.${isolation.length}${process.pid}`
      desk.write(
        'graph.mesh.toml',
        `mesh = 1
[derivation.nap]
builder = "/bin/sh"
args = ["-c", '(trap "" TERM; exec setsid sleep ${mark}) & sleep ${mark}; echo slept > $out']
sealed = ${isolation === 'auto'}
`,
      )
      const running = async (): Promise<true | undefined> =>
        (await processesWith(mark)).length === 2 ? true : undefined
      const following = desk.follow('submit', 'graph.mesh.toml', '--json')
      await until('both sleeps', running)
      process.kill(await executorOf(alone), 'SIGKILL')
      await until('the first attempt to be lost', async () =>
        (await desk.job('nap')).attempts[0]?.state === 'lost' ? true : undefined,
      )
      // Now the daemon with it: only the next start can clean up after plain builds.
      await until('the second attempt', async () =>
        (await desk.job('nap')).attempts[1]?.state === 'building' ? running() : undefined,
      )
      process.kill(await executorOf(alone), 'SIGKILL')
      await alone.kill()
      await mesh.start(options)
      const ended = await following.ended
      assert.equal(ended.code, 0, ended.stderr)
      assert.equal(desk.read('result/nap'), 'slept\n')
      const { attempts } = await desk.job('nap')
      // Owner and worker began anew together: the second attempt was of the worker's earlier life.
      assert.deepEqual(
        attempts.map(({ state }) => state),
        ['lost', 'lost', 'done'],
      )
      assert.match(attempts[0]?.error ?? '', /executor process ended with SIGKILL/)
      await until('every sleep to be gone', async () =>
        (await processesWith(mark)).length === 0 ? true : undefined,
      )
    },
  )
