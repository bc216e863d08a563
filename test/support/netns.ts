/**
 * Machines that can reach a hub and not each other: network namespaces in a star, each with a link of its
 * own to the hub, which forwards nothing. As with NAT, only who dials out is ever connected.
 */
import { spawnSync } from 'node:child_process'
import type { TestContext } from 'node:test'
import { messageOf } from '../../src/base/errors.ts'

export interface Star extends Disposable {
  /** The hub's address as the outer machine of this index sees it. */
  hubAddress(machine: number): string
  /** Command prefixes: what follows runs at the hub, or at the outer machine of this index. */
  readonly atHub: readonly string[]
  at(machine: number): readonly string[]
  /** Takes the link to the outer machine down: nothing gets through, and nobody is told. */
  cut(machine: number): void
  heal(machine: number): void
}

/** Until the test ends; skips it, and gives undefined, where no namespaces can be made. */
export function starFor(t: TestContext, machineCount: number): Star | undefined {
  try {
    const star = openStar(machineCount)
    t.after(() => star[Symbol.dispose]())
    return star
  } catch (error) {
    t.skip(`no network namespaces can be made here: ${messageOf(error)}`)
    return undefined
  }
}

/** Throws with what ip(8) says when it may not be done here. */
function openStar(machineCount: number): Star {
  const names = ['hub', ...Array.from({ length: machineCount }, (_, at) => String(at))].map(
    (name) => `mesh-${process.pid}-${name}`,
  )
  const [hub = '', ...outer] = names
  const made: string[] = []
  const dispose = (): void => {
    for (const name of made) spawnSync('ip', ['netns', 'del', name])
  }
  try {
    for (const name of names) {
      ip('netns', 'add', name)
      made.push(name)
      ip('-n', name, 'link', 'set', 'lo', 'up')
    }
    for (const [at, name] of outer.entries()) {
      ip(
        '-n',
        hub,
        'link',
        'add',
        `out${at}`,
        'type',
        'veth',
        'peer',
        'name',
        'eth0',
        'netns',
        name,
      )
      ip('-n', hub, 'addr', 'add', `${subnet(at)}.1/30`, 'dev', `out${at}`)
      ip('-n', name, 'addr', 'add', `${subnet(at)}.2/30`, 'dev', 'eth0')
      ip('-n', hub, 'link', 'set', `out${at}`, 'up')
      ip('-n', name, 'link', 'set', 'eth0', 'up')
      ip('-n', name, 'route', 'add', 'default', 'via', `${subnet(at)}.1`)
    }
  } catch (error) {
    dispose()
    throw error
  }
  return {
    hubAddress: (machine) => `${subnet(machine)}.1`,
    atHub: within(hub),
    at: (machine) => within(outer[machine] ?? ''),
    cut: (machine) => ip('-n', hub, 'link', 'set', `out${machine}`, 'down'),
    heal: (machine) => ip('-n', hub, 'link', 'set', `out${machine}`, 'up'),
    [Symbol.dispose]: dispose,
  }
}

const subnet = (machine: number): string => `10.231.${machine}`
/** nsenter(1) becomes the command: one process, as without it. */
const within = (name: string): string[] => ['nsenter', `--net=/run/netns/${name}`]

function ip(...args: readonly string[]): void {
  const { status, stderr, error } = spawnSync('ip', args, { encoding: 'utf8' })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`ip ${args.join(' ')}: ${stderr.trim()}`)
}
