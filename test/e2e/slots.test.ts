/** Processors of running jobs and nodes at a mesh of real processes, set by a person at the root. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { JobView } from '../../src/wire/api.ts'
import { SlotsView } from '../../src/wire/slots.ts'
import { lastJson } from '../../scripts/cluster.ts'
import { openMesh, until, type Desk } from './meshes.ts'

const graph = (parts: Readonly<Record<string, { script: string; cpus: string }>>): string =>
  ['mesh = 1']
    .concat(
      Object.entries(parts).map(
        ([name, { script, cpus }]) => `
[derivation.${name}]
builder = "/bin/sh"
args = ["-c", '''${script}''']
sealed = false
needs.cpus = ${cpus}`,
      ),
    )
    .join('\n')

/** Says when it runs, and runs until a file is there. */
const waitFor = (desk: Desk, name: string): string =>
  `: > ${join(desk.directory, `${name}.began`)}; until test -e ${join(desk.directory, `${name}.go`)}; do sleep 0.1; done; echo ok > $out`

async function hasCpus(desk: Desk, name: string, cpus: number): Promise<JobView> {
  return until(`${name} to have ${cpus}`, async () => {
    const job = (await desk.jobs()).find((one) => one.name === name)
    return job?.attempts.at(-1)?.cpus === cpus ? job : undefined
  })
}

test(
  'slots: a running job has as many as is said, at once, and another one the place that it gave up',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root,store' })
    const desk = mesh.desk(root)
    const args = ['--isolation', 'host']
    // No machine that runs tests has fewer.
    const worker = { role: 'worker,store', listen: 'none', cpus: 2, parents: [root], args }
    await mesh.start({ name: 'w1', ...worker })
    await desk.untilReady('w1')
    const parts = { wide: { script: waitFor(desk, 'wide'), cpus: '{ min = 1, max = 2 }' } }
    const following = desk.follow('submit', desk.write('g.mesh.toml', graph(parts)), '--json')
    await until('wide to begin', async () =>
      existsSync(join(desk.directory, 'wide.began')) ? true : undefined,
    )
    await hasCpus(desk, 'wide', 2)
    const set = await desk.mesh('slots', 'wide', '1', '--json')
    assert.equal(set.code, 0, set.stderr)
    assert.equal(JobView.parse(lastJson(set)).slots?.cpus, 1)
    const job = await hasCpus(desk, 'wide', 1)
    const list = SlotsView.parse(lastJson(await desk.mesh('slots', '--json')))
    assert.deepEqual(
      list.jobs.map(({ name, cpus, has }) => [name, cpus, has]),
      [['wide', 1, 1]],
    )
    const shown = await desk.mesh('jobs', 'show', job.id)
    assert.match(shown.stdout, /slots +1 processor, set by \S+/)
    const why = await desk.mesh('why', job.id)
    assert.match(why.stdout, /1 of the 1 processor that \S+ wants it to have/)
    const other = { one: { script: waitFor(desk, 'one'), cpus: '1' } }
    desk.write('one.go', '')
    const second = await desk.mesh(
      'submit',
      desk.write('h.mesh.toml', graph(other)),
      '-o',
      'second',
    )
    assert.equal(second.code, 0, second.stderr)
    assert.equal((await desk.mesh('slots', job.id, 'auto')).code, 0)
    await hasCpus(desk, 'wide', 2)
    desk.write('wide.go', '')
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    const over = await desk.mesh('slots', job.id, '2')
    assert.equal(over.code, 2, over.stdout)
    assert.match(over.stderr, /is done: it neither waits nor runs/)
  },
)

test(
  'slots: a node gives what is said for as long as is said: nothing is ended, nothing begins, and it has all again',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root,store' })
    const desk = mesh.desk(root)
    const args = ['--isolation', 'host']
    const worker = { role: 'worker,store', listen: 'none', cpus: 2, parents: [root], args }
    const w1 = await mesh.start({ name: 'w1', ...worker })
    await desk.untilReady('w1')
    const parts = Object.fromEntries(
      ['a', 'b', 'c'].map((name) => [name, { script: waitFor(desk, name), cpus: '1' }]),
    )
    const file = desk.write('g.mesh.toml', graph(parts))
    const following = desk.follow('submit', file, '--json')
    const began = (): string[] =>
      ['a', 'b', 'c'].filter((name) => existsSync(join(desk.directory, `${name}.began`)))
    await until('two to begin', async () => (began().length === 2 ? true : undefined))
    const set = await desk.mesh('slots', 'w1', '1', '--until', '1h', '--reason', 'at my desk')
    assert.equal(set.code, 0, set.stderr)
    assert.match(set.stdout, /w1: 1 processor for builds for/)
    const node = await until('w1 to say that it has one', async () => {
      const [row] = (await desk.untilReady('w1')).filter(({ name }) => name === 'w1')
      return row?.capacity.cpus === 1 ? row : undefined
    })
    assert.deepEqual([node.slots?.cpus, node.slots?.reason], [1, 'at my desk'])
    // Both go on, and the third does not take the place of the first that ends.
    const [first, second] = began()
    assert(first !== undefined && second !== undefined)
    desk.write(`${first}.go`, '')
    await desk.untilJob(first, 'done')
    assert.equal(began().length, 2)
    const unset = await desk.mesh('slots', 'w1', 'auto')
    assert.match(unset.stdout, /by themselves again/)
    await until('the third to begin', async () => (began().length === 3 ? true : undefined))
    for (const name of ['a', 'b', 'c']) desk.write(`${name}.go`, '')
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.equal((await mesh.desk(w1).mesh('slots', 'nobody', '1')).code, 5)
  },
)
