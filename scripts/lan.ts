/**
 * Hosts on one switch, each a network namespace with a link of its own whose rate can be limited both
 * ways: on a machine with few cores an unlimited transfer would measure the processors, not the network.
 */
import { spawnSync } from 'node:child_process'

export interface Lan extends Disposable {
  address(host: number): string
  /** What makes the command after it run on the host. */
  at(host: number): readonly string[]
  /** As behind a NAT: only answers to what the host began get in. */
  hide(host: number): void
  /** From now on nothing gets from one of the two groups to the other, and nobody is told. */
  part(some: readonly number[], others: readonly number[]): void
  /** Ends what `part` began. */
  join(): void
  /** What the host has sent over its link so far, headers included. */
  sentBytes(host: number): number
}

/** Needs root. Throws with what ip(8) or tc(8) says when it may not be done here. */
export function openLan(options: { readonly hosts: number; readonly mbitPerS?: number }): Lan {
  const name = (what: string | number): string => `mesh-${process.pid}-lan-${what}`
  const made: string[] = []
  const dispose = (): void => {
    for (const one of made) spawnSync('ip', ['netns', 'del', one])
  }
  const add = (namespace: string): void => {
    command('ip', 'netns', 'add', namespace)
    made.push(namespace)
    command('ip', '-n', namespace, 'link', 'set', 'lo', 'up')
  }
  const lan = name('switch')
  try {
    add(lan)
    command('ip', '-n', lan, 'link', 'add', 'bridge', 'type', 'bridge')
    command('ip', '-n', lan, 'link', 'set', 'bridge', 'up')
    for (let host = 0; host < options.hosts; host++) {
      const outer = `port${host}`
      add(name(host))
      command(
        ...['ip', '-n', lan, 'link', 'add', outer, 'type', 'veth'],
        ...['peer', 'name', 'eth0', 'netns', name(host)],
      )
      command('ip', '-n', lan, 'link', 'set', outer, 'master', 'bridge', 'up')
      command('ip', '-n', name(host), 'addr', 'add', `${addressOf(host)}/16`, 'dev', 'eth0')
      command('ip', '-n', name(host), 'link', 'set', 'eth0', 'up')
      if (options.mbitPerS === undefined) continue
      for (const [namespace, device] of [
        [lan, outer],
        [name(host), 'eth0'],
      ] as const)
        command(
          ...['tc', '-n', namespace, 'qdisc', 'add', 'dev', device, 'root', 'tbf'],
          ...['rate', `${options.mbitPerS}mbit`, 'burst', '256k', 'latency', '100ms'],
        )
    }
  } catch (error) {
    dispose()
    throw error
  }
  const parted = new Set<number>()
  return {
    address: addressOf,
    hide: (host) =>
      rules(
        name(host),
        `table inet meshnat {
          chain in {
            type filter hook input priority 0; policy drop;
            iif lo accept
            ct state established,related accept
          }
        }`,
      ),
    part(some, others) {
      const list = others.map(addressOf).join(', ')
      for (const host of some) {
        parted.add(host)
        rules(
          name(host),
          `table inet meshpart {
            chain in {
              type filter hook input priority -1;
              ip saddr { ${list} } drop
            }
            chain out {
              type filter hook output priority -1;
              ip daddr { ${list} } drop
            }
          }`,
        )
      }
    },
    join() {
      for (const host of parted) rules(name(host), 'delete table inet meshpart')
      parted.clear()
    },
    at: (host) => ['nsenter', `--net=/run/netns/${name(host)}`],
    sentBytes: (host) => {
      const links: unknown = JSON.parse(
        command('ip', '-n', name(host), '-j', '-s', 'link', 'show', 'eth0'),
      )
      return Number(/"tx":\{"bytes":(\d+)/.exec(JSON.stringify(links))?.[1])
    },
    [Symbol.dispose]: dispose,
  }
}

function rules(namespace: string, text: string): void {
  const { status, stderr, error } = spawnSync(
    'ip',
    ['netns', 'exec', namespace, 'nft', '-f', '-'],
    { input: text, encoding: 'utf8' },
  )
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`nft in ${namespace}: ${stderr.trim()}`)
}

const addressOf = (host: number): string => `10.232.${host >> 7}.${(host & 127) + 1}`

function command(...[program = '', ...args]: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8' })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr.trim()}`)
  return stdout
}
