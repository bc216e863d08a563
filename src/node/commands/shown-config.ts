/** `mesh-node config check` of a configuration without problems. */
import type { Config } from '../config/config.ts'
import { shownPolicy } from '../config/policy-settings.ts'
import type { Resolution } from '../config/resolve-config.ts'

/** A configuration file with the same meaning, and where each value came from. */
export function shownConfig({ settings, file }: Resolution, config: Config): string {
  const lines = [`# file: ${file ?? 'none'}`]
  let section = ''
  for (const setting of settings) {
    if (setting.section !== section) lines.push('', `[${setting.section}]`)
    section = setting.section
    const assignment =
      setting.toml === undefined
        ? `# ${setting.key} is not set`
        : `${setting.key} = ${setting.toml}`
    lines.push(`${assignment.padEnd(48)}  # ${setting.source}`)
  }
  lines.push(...shownPolicy(config.policy))
  for (const { name, users, weight } of config.shares.groups)
    lines.push(
      '',
      '[[shares.group]]',
      `name = ${JSON.stringify(name)}`,
      `users = [${users.map((user) => JSON.stringify(user)).join(', ')}]`,
      `weight = ${weight}`,
    )
  if (config.allow === 'any') lines.push('', '# warning: every peer is admitted')
  return `${lines.join('\n')}\n`
}
