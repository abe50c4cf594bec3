"""What people read: tables, pictures, and the same figures for machines."""
