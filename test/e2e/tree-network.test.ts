/**
 * A tree of height 3 over a network of its own, with a leaf behind a NAT: a real library is built while the
 * root is killed, a middle node is killed, and a subtree is parted from the rest. What comes out is what an
 * undisturbed mesh makes.
 */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { z } from 'zod'
import { sourcesDirectory } from '../../examples/leveldb/steps.ts'
import { messageOf } from '../../src/base/errors.ts'
import { lastJson } from '../../scripts/cluster.ts'
import { openLan, type Lan } from '../../scripts/lan.ts'
import { openMesh, until, type Daemon, type Mesh } from './meshes.ts'

const GRAPH = join(import.meta.dirname, '../../examples/leveldb/graph.ts')
/** Longer than a lease, so that the root gives up what the parted subtree runs. */
const ALONE = `mesh = 1
[derivation.alone]
builder = "/bin/sh"
args = ["-c", 'sleep 45; echo built while parted > $out']
`

/** Hosts of the network. */
const AT = { root: 0, east: 1, west: 2, hidden: 3, open: 4, dev: 5 } as const

function lanFor(t: TestContext): Lan | undefined {
  try {
    const lan = openLan({ hosts: Object.keys(AT).length })
    t.after(() => lan[Symbol.dispose]())
    return lan
  } catch (error) {
    t.skip(`no network namespaces can be made here: ${messageOf(error)}`)
    return undefined
  }
}

/** `root`; below it `east` and `west`; below these the workers, `hidden` behind a NAT; `dev` at `west`. */
class Network {
  readonly #mesh: Mesh
  readonly #lan: Lan

  constructor(mesh: Mesh, lan: Lan) {
    this.#mesh = mesh
    this.#lan = lan
    lan.hide(AT.hidden)
  }

  #start(name: keyof typeof AT, role: string, args: readonly string[]): Promise<Daemon> {
    return this.#mesh.start({
      name,
      role,
      within: this.#lan.at(AT[name]),
      args: ['--allow', 'any', ...args],
      ...(name === 'hidden' || name === 'open' || name === 'dev'
        ? { listen: 'none' }
        : { listen: '/ip4/0.0.0.0/tcp/7421' }),
    })
  }

  #under(parent: keyof typeof AT): string[] {
    return ['--parent', `/ip4/${this.#lan.address(AT[parent])}/tcp/7421`]
  }

  root(): Promise<Daemon> {
    return this.#start('root', 'root,store', [])
  }
  middle(name: 'east' | 'west'): Promise<Daemon> {
    return this.#start(name, 'store', this.#under('root'))
  }
  async start(): Promise<{ root: Daemon; east: Daemon; west: Daemon; dev: Daemon }> {
    const root = await this.root()
    const [east, west] = await Promise.all([this.middle('east'), this.middle('west')])
    const worker = ['--cpus', '1', '--http', '0.0.0.0:7430']
    const [dev] = await Promise.all([
      this.#start('dev', 'client', this.#under('west')),
      this.#start('hidden', 'worker,store', [...worker, ...this.#under('east')]),
      this.#start('open', 'worker,store', [...worker, ...this.#under('west')]),
    ])
    return { root, east, west, dev }
  }
}

const submitGraph = (mesh: Mesh, daemon: Daemon, name: string): ReturnType<Mesh['mesh']> =>
  mesh.mesh(daemon, ['submit', GRAPH, '-o', join(mesh.directory, name), '--json'], {
    env: { LEVELDB_SOURCES: sourcesDirectory() },
  })

const Running = z.object({ running: z.array(z.unknown()) })
const Built = z.object({ outputs: z.record(z.string(), z.unknown()) })

test(
  'tree-network: outputs are those of an undisturbed run whatever is killed and parted meanwhile',
  { timeout: 420_000 },
  async (t) => {
    const lan = lanFor(t)
    if (lan === undefined) return
    await using calm = await openMesh(t)
    const single = await calm.start({ name: 'single', role: 'root,worker,store', cpus: 2 })
    const reference = await submitGraph(calm, single, 'reference')
    assert.equal(reference.code, 0, reference.stderr)

    await using mesh = await openMesh(t)
    const network = new Network(mesh, lan)
    const { root, east, dev } = await network.start()
    const desk = mesh.desk(dev)
    await desk.untilReady('hidden', 'open', 'east', 'west', 'root')
    const building = submitGraph(mesh, dev, 'result')
    const untilDone = (count: number): Promise<unknown> =>
      desk.untilRequest(`${count} jobs further`, ({ counts }) => counts.built >= count)

    await untilDone(3)
    await root.kill()
    const again = await network.root()
    await untilDone(8)
    await east.kill()
    await network.middle('east')
    await untilDone(14)
    lan.part([AT.west, AT.open, AT.dev], [AT.root, AT.east, AT.hidden])
    const alone = await mesh.mesh(
      dev,
      [
        'submit',
        desk.write('alone.mesh.toml', ALONE),
        '-o',
        join(mesh.directory, 'alone'),
        '--json',
      ],
      {},
    )
    assert.equal(alone.code, 0, alone.stderr)
    lan.join()

    const ended = await building
    assert.equal(ended.code, 0, ended.stderr)
    assert.deepEqual(
      Built.parse(lastJson(ended)).outputs,
      Built.parse(lastJson(reference)).outputs,
      'what was built is the same',
    )
    const rootDesk = mesh.desk(again)
    await rootDesk.untilReady('hidden', 'open', 'east', 'west', 'root')
    await until('nothing to run any more', async () => {
      const { running } = Running.parse(lastJson(await mesh.mesh(again, ['top', '--json'])))
      return running.length === 0 ? true : undefined
    })
  },
)
