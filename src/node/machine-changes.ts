/** What became different between two looks at a machine, for its log. Pure. */
import { formatSize } from '../base/units.ts'
import type { Offered } from '../build/probe/offered.ts'
import type { Environment } from '../wire/environment.ts'

/** One line for each; empty when the same is offered. */
export function findChanges(before: Offered, after: Offered): string[] {
  const changes: string[] = []
  const number = (name: string, from: string, to: string): void => {
    if (from !== to) changes.push(`${name}: ${from} before, ${to} now`)
  }
  number('cpus', String(before.cpus.value), String(after.cpus.value))
  number('memory', formatSize(before.memoryBytes.value), formatSize(after.memoryBytes.value))
  const old = new Map(before.environments.map((each) => [nameOf(each), each]))
  for (const environment of after.environments) {
    const name = nameOf(environment)
    const was = old.get(name)
    old.delete(name)
    if (was === undefined) changes.push(`${name}: new`)
    else changes.push(...differences(name, was, environment))
  }
  for (const name of old.keys()) changes.push(`${name}: gone`)
  return changes
}

const nameOf = ({ system, isolation }: Environment): string => `${system} ${isolation}`

function differences(name: string, before: Environment, after: Environment): string[] {
  const gone = before.features.filter((feature) => !after.features.includes(feature))
  const come = after.features.filter((feature) => !before.features.includes(feature))
  return [
    ...(gone.length > 0 ? [`${name}: without ${gone.join(', ')}`] : []),
    ...(come.length > 0 ? [`${name}: with ${come.join(', ')}`] : []),
    ...(before.base === after.base
      ? []
      : [`${name}: its compilers, C library or release were changed (${after.label})`]),
  ]
}
