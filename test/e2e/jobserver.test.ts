/** Builds of a person's own beside the mesh: they share the machine with each other and with the mesh, live. Needs two processors. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { processesWith, uniqueSleep } from '../build/builds.ts'
import { openMesh, submitted, until } from './meshes.ts'

const DESK = {
  name: 'desk',
  role: 'root,worker,store',
  cpus: 2,
  args: ['--isolation', 'host'],
}

/** Prints the number whenever it is another, until there is a file `go`. */
const WATCH = `last=
until [ -e go ]; do
  now=$(cat $MESH_JOBS_FILE)
  if [ "$now" != "$last" ]; then echo jobs $now; last=$now; fi
  sleep 0.05
done
exit 7`

/** A build of the mesh that takes what it is given for as long as nobody says go. */
const graph = (place: string): string => `mesh = 1
[derivation.busy]
builder = "/bin/sh"
args = ["-c", ': > $PLACE/began; until [ -e $PLACE/go ]; do sleep 0.05; done; echo done > $out']
sealed = false
env = { PLACE = "${place}" }
needs.cpus = { min = 1, max = 2 }
`

test(
  'jobserver: local builds and those of the mesh have the processors of a node between them',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const node = await mesh.start(DESK)
    const desk = mesh.desk(node)
    // What a killed one leaves goes with the desk.
    desk.env['TMPDIR'] = desk.directory
    await desk.untilReady('desk')
    const free = async (): Promise<number | undefined> =>
      (await desk.untilReady('desk'))[0]?.capacity.cpus
    assert.equal(await free(), 2)

    const first = desk.follow('jobserver', '-j', '8', '--', 'sh', '-c', WATCH)
    const told = (text: string) => async () => (first.output.stdout === text ? true : undefined)
    await until('the first one has all', told('jobs 2\n'))
    await until('the node offers nothing', async () => ((await free()) === 0 ? true : undefined))

    // Another one gets half, and gives it back when it is killed.
    const sleep = uniqueSleep()
    const second = desk.follow('jobserver', '-j', '8', '--', 'sleep', sleep)
    await until('each has half', told('jobs 2\njobs 1\n'))
    assert(second.child.pid !== undefined)
    process.kill(second.child.pid, 'SIGKILL')
    // Its command goes on, as that of any wrapper that is killed; but it counts no more.
    for (const pid of await processesWith(sleep)) process.kill(pid, 'SIGKILL')
    await until('it has all again', told('jobs 2\njobs 1\njobs 2\n'))

    desk.write('go', '')
    const ended = await first.ended
    assert.equal(ended.code, 7, ended.stderr)
    await until('the node offers all again', async () => ((await free()) === 2 ? true : undefined))
  },
)

test(
  'jobserver: a build of the mesh keeps one processor beside a local build, and has all of them again after it',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const node = await mesh.start(DESK)
    const desk = mesh.desk(node)
    await desk.untilReady('desk')
    const file = desk.write('busy.mesh.toml', graph(desk.directory))
    const submitting = desk.follow('submit', file, '--json')
    await until('the build runs', async () =>
      existsSync(join(desk.directory, 'began')) ? true : undefined,
    )

    const local = desk.follow('jobserver', '-j', '8', '--', 'sh', '-c', WATCH)
    await until('it leaves one', async () =>
      local.output.stdout.endsWith('jobs 1\n') ? true : undefined,
    )
    desk.write('go', '')
    assert.equal((await local.ended).code, 7)
    const ended = await submitting.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.equal(submitted(ended).jobs.built, 1)
  },
)

test(
  'jobserver: a daemon that goes away ends nothing, and one that comes back is asked again',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const node = await mesh.start(DESK)
    const desk = mesh.desk(node)
    await desk.untilReady('desk')
    const local = desk.follow('jobserver', '-j', '6', '--', 'sh', '-c', WATCH)
    await until('it began', async () => (local.output.stdout === 'jobs 2\n' ? true : undefined))
    await node.kill()
    await mesh.start({ ...DESK, cpus: 1 })
    await until('it is told by the new one', async () =>
      local.output.stdout === 'jobs 2\njobs 1\n' ? true : undefined,
    ).catch((error: unknown) => {
      throw new Error(JSON.stringify(local.output), { cause: error })
    })
    desk.write('go', '')
    assert.equal((await local.ended).code, 7)
  },
)
