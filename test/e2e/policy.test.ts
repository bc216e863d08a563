/** A workstation that lends its processors: builds have fewer while its owner is there, and none is killed for that. */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { NodeView, Top } from '../../src/wire/api.ts'
import { FakeMachine } from '../node/policy/fake-machine.ts'
import { openMesh, submitted, until, type Daemon, type Mesh } from './meshes.ts'

/** As a tool does that heeds its number of jobs: so many workers at a time, over and over. */
const ROUNDS = `until [ -e $PLACE/go ]; do
  n=$(cat $MESH_JOBS_FILE)
  echo "$(date +%s%3N) $n" >> $PLACE/$ME
  while [ $n -gt 0 ]; do sleep 0.05 & n=$((n - 1)); done
  wait
done
echo built > $out`

const graph = (place: string, name: string): string => `mesh = 1
[derivation.${name}]
builder = "/bin/sh"
args = ["-c", '''${ROUNDS}''']
sealed = false
env = { PLACE = "${place}", ME = "${name}" }
needs.cpus = { min = 1, max = 2 }
`

const SETTINGS = `[worker]
policy = "when-idle"

[worker.owner]
cpus = 1
`

/** How long the owner waits for their processors. */
const HOME_MS = 2000

interface Round {
  readonly atWallMs: number
  readonly jobs: number
}

function roundsOf(place: string, name: string): Round[] {
  let text = ''
  try {
    text = readFileSync(join(place, name), 'utf8')
  } catch {
    // It has not begun.
  }
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const [atWallMs = 0, jobs = 0] = line.split(' ').map(Number)
      return { atWallMs, jobs }
    })
}

/** Waits for a round of the build, after those that it has done, in which it has so many jobs. */
function untilJobs(place: string, name: string, jobs: number): Promise<Round> {
  const before = roundsOf(place, name).length
  return until(`${name} to have ${jobs} jobs`, async () =>
    roundsOf(place, name)
      .slice(before)
      .find((round) => round.jobs === jobs),
  )
}

/** One workstation, whose owner has been away for an hour, with or without a parent. */
async function workstation(mesh: Mesh, machine: FakeMachine, parent?: Daemon) {
  const away = Date.now() - 3_600_000
  machine.session('2', { USER: 'ann', TYPE: 'tty', TTY: 'tty2', SEAT: 'seat0' })
  machine.typed('tty2', away)
  const config = join(mesh.directory, 'mesh.toml')
  writeFileSync(config, SETTINGS)
  const node = await mesh.start({
    name: 'desk',
    ...(parent === undefined
      ? { role: 'root,worker,store' }
      : { role: 'worker,store', parents: [parent], listen: 'none' }),
    cpus: 2,
    args: ['--isolation', 'host', '--config', config, '--machine-root', machine.root],
  })
  return {
    desk: mesh.desk(node),
    /** When she typed. */
    comesHome: (): number => {
      const nowMs = Date.now()
      machine.typed('tty2', nowMs)
      return nowMs
    },
    leaves: () => machine.typed('tty2', away),
  }
}

test(
  'policy: a running build shrinks when the owner comes home, and grows when they leave',
  { timeout: 120_000 },
  async (t) => {
    using machine = new FakeMachine()
    await using mesh = await openMesh(t)
    const place = mesh.directory
    const root = await mesh.start({ name: 'root', role: 'root,store' })
    const { comesHome, leaves } = await workstation(mesh, machine, root)
    const desk = mesh.desk(root)
    await desk.untilReady('desk')
    const following = desk.follow(
      'submit',
      desk.write('one.mesh.toml', graph(place, 'one')),
      '--json',
    )
    await untilJobs(place, 'one', 2)

    const homeMs = comesHome()
    const less = await untilJobs(place, 'one', 1)
    const tookMs = less.atWallMs - homeMs
    assert.ok(tookMs <= HOME_MS, `it took ${tookMs} ms`)
    t.diagnostic(`from the key to fewer jobs: ${tookMs} ms`)
    await until('the offer to be less', async () => {
      const nodes = (await desk.ask(z.array(NodeView), '/api/nodes')) ?? []
      return nodes.find(({ name }) => name === 'desk')?.capacity.cpus === 1 ? true : undefined
    })
    const [node] = await desk.untilReady('desk')
    assert.deepEqual(
      [node?.policy?.name, node?.policy?.cpus, node?.policy?.of],
      ['when-idle', 1, 2],
    )
    const shown = await desk.mesh('nodes', 'show', 'desk')
    assert.match(
      shown.stdout,
      /policy +when-idle, 1 of 2 cpus: ann is at the machine \(tty2, idle \d+ s\)/,
    )
    const listed = await desk.mesh('nodes')
    assert.match(listed.stdout, /1 of 2 cpus: ann is at the machine/)
    const top = await desk.ask(Top, '/api/top')
    assert.equal(top?.nodes.find(({ name }) => name === 'desk')?.policy?.cpus, 1)

    leaves()
    await untilJobs(place, 'one', 2)
    writeFileSync(join(place, 'go'), '')
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.deepEqual(submitted(ended).jobs, { built: 1, cached: 0, failed: 0, cancelled: 0 })
    assert.equal((await desk.job('one')).attempts.length, 1)
  },
)

test(
  'policy: with fewer processors than builds the last one stands still, and goes on later',
  { timeout: 120_000 },
  async (t) => {
    using machine = new FakeMachine()
    await using mesh = await openMesh(t)
    const place = mesh.directory
    const { desk, comesHome, leaves } = await workstation(mesh, machine)
    await desk.untilReady('desk')
    const one = desk.follow('submit', desk.write('one.mesh.toml', graph(place, 'one')), '--json')
    await untilJobs(place, 'one', 2)
    const two = desk.follow('submit', desk.write('two.mesh.toml', graph(place, 'two')), '--json')
    await untilJobs(place, 'two', 1)
    await untilJobs(place, 'one', 1)

    comesHome()
    // One round of it may have been under way: after that, nothing while the other goes on.
    await until('the second build to stand still', async () => {
      const before = roundsOf(place, 'two').length
      for (let rounds = 0; rounds < 5; rounds += 1) await untilJobs(place, 'one', 1)
      return roundsOf(place, 'two').length === before ? true : undefined
    })
    for (const name of ['one', 'two'])
      assert.equal((await desk.job(name)).attempts.at(-1)?.state, 'building', name)

    leaves()
    await untilJobs(place, 'two', 1)
    writeFileSync(join(place, 'go'), '')
    for (const following of [one, two]) {
      const ended = await following.ended
      assert.equal(ended.code, 0, ended.stderr)
    }
    for (const name of ['one', 'two']) assert.equal((await desk.job(name)).attempts.length, 1, name)
  },
)
