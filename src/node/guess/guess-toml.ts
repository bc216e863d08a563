/** What was found, as a part of a configuration file that holds exactly that. Pure. */
import type { RootFacts } from '../../build/probe/root-facts.ts'
import type { Guess } from './guess.ts'

const MIB = 1024 * 1024
/** Where comments begin. */
const VALUE_COLUMNS = 32

/** `[worker]`, with the reason for each value. */
export function machineToml({ facts, declared, custom, offered }: Guess): string {
  const { kernel, userland, sandbox } = facts
  const features = new Set(offered.environments.flatMap((environment) => environment.features))
  return `${[
    `# found by mesh-node guess-env: ${userland.system} ${userland.platform.label}, kernel ${comment(kernel.release)}`,
    '[worker]',
    line(`cpus = ${offered.cpus.value}`, `${offered.cpus.source}: ${offered.cpus.how}`),
    // Rounded down: no node may claim more than there is.
    line(
      `memory = "${Math.floor(offered.memoryBytes.value / MIB)} MiB"`,
      `${offered.memoryBytes.source}: ${offered.memoryBytes.how}`,
    ),
    line(
      `isolation = "${sandbox.method === 'none' ? 'host' : 'auto'}"`,
      sandbox.method === 'none' ? 'no sandbox works here' : `sealed by ${sandbox.method}`,
    ),
    ...(offered.systems.length === 0
      ? []
      : [
          'systems = [',
          ...offered.systems.map(({ system, how, why }) =>
            line(`  "${system}",`, `${how}: ${why}`),
          ),
          ']',
        ]),
    line(
      `features = ${listOf(declared.features)}`,
      `offered: ${[...features].toSorted().join(', ') || 'none'}`,
    ),
    `facts = ${listOf(declared.factPaths)}`,
    ...custom.facts.map(({ name, value, how }) => comment(`# ${name} = ${value} (${how})`)),
    ...offered.notices.map((notice) => comment(`# notice: ${notice}`)),
  ].join('\n')}\n`
}

/** A root directory is no worker: what is known of it, as comments and one table of its own. */
export function rootToml({ root, system, platform, how, runs, entered, tools }: RootFacts): string {
  return `${[
    comment(`# found by mesh-node guess-env --root ${root}`),
    line(`system = ${JSON.stringify(system ?? '')}`, how),
    `platform = ${JSON.stringify(platform.label)}`,
    line(`runs = ${JSON.stringify(runs)}`, entered.why),
    `tools = ${listOf(tools)}`,
  ].join('\n')}\n`
}

const listOf = (words: readonly string[]): string =>
  `[${words.map((word) => JSON.stringify(word)).join(', ')}]`

const line = (text: string, why: string): string =>
  `${text.padEnd(VALUE_COLUMNS)}  # ${comment(why)}`

/** A comment ends with its line. */
const comment = (text: string): string => text.replaceAll(/\p{Cc}/gu, ' ')
